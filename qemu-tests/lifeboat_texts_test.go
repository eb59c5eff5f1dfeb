package qemutests

// What the tests know of a lifeboat's words: magic numbers, states, and the console.
const (
	headerMagic  = "reimager header\n"
	journalMagic = "reimager journal"
	keyMagic     = "reimager keyslot"

	stateBoarded   = "boarded"
	stateProven    = "proven"
	stateWriting   = "writing"
	stateRestoring = "restoring"
	stateRestored  = "restored"
	stateKeyless   = "keyless"

	gateProve = "prove"

	saysBoard   = "== stage board"
	saysBoarded = "== outcome start the lifeboat"
	saysProve   = "== stage prove"
	saysCast    = "cast off /dev/sda"
	saysLanded  = "== outcome boot the new system"
	saysNoBerth = "no lifeboat: find berth of"
	saysNoUEFI  = "no lifeboat: there is no lifeboat yet for a machine that UEFI boots"
	saysHolds   = "THE MACHINE HOLDS"

	// saysReset is an expression for the last words of a kernel, after which nothing is
	// written until another one runs: an old system's, and ours.
	saysReset = "reboot: Restarting system|sysrq: Resetting"
)
