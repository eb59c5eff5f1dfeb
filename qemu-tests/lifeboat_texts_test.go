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

	saysReset  = "reboot: Restarting system"
	saysBoard  = "== stage board"
	saysProve  = "== stage prove"
	saysCast   = "cast off /dev/sda"
	saysAboard = "lifeboat"
	saysHolds  = "THE MACHINE HOLDS"
)
