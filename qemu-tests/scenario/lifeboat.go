package scenario

import (
	"fmt"
	"strings"

	"reimager/qemu-tests/lab"
)

// LifeboatConfig is for a machine that does not cast off without a lifeboat, and leaves
// nothing of its old system on the disk.
const LifeboatConfig = `[machine]
modules = "classic"
device_timeout = "20s"

[target]
unmapped = "zero"

[new]
mounts = { "/kiosk" = "partition 6" }
log_dir = "/kiosk/log"

[power_cut]
lifeboat = "require"
`

// VaultFile is a retained file with a line for each sector, of which none is anywhere else.
const VaultFile = "etc/kiosk/keys/vault"

// Vault is its content.
func Vault() string {
	var text strings.Builder
	for i := range 256 {
		line := fmt.Sprintf("%s line %d ", VaultLine, i)
		text.WriteString(line + strings.Repeat(".", 511-len(line)) + "\n")
	}
	return text.String()
}

// VaultLine is what each of its lines begins with.
const VaultLine = "known to this till and to nobody else:"

// Lifeboat is a kiosk whose old system has a swap partition behind all that the new one,
// of 48 MiB, maps: room for a berth.
func Lifeboat() Spec {
	return Spec{
		Config: LifeboatConfig, Pack: "zst", New: SmallKiosk,
		Old: func(o *lab.KioskSpec) {
			o.SizeMiB, o.SwapMiB = 240, 96
			vault := lab.Text(VaultFile, 0o600, Vault())
			vault.UID, vault.GID = 990, 990
			o.Root = append(o.Root, vault)
		},
	}
}

// SmallKiosk makes a kiosk of 48 MiB.
func SmallKiosk(n *lab.KioskSpec) {
	n.SizeMiB, n.BootMiB, n.RootMiB, n.SwapMiB, n.LogMiB = 48, 24, 10, 2, 6
}
