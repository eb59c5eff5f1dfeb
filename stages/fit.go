package stages

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"reimager/config"
	"reimager/report"
)

// checkMachine refuses a job that was made on another kind of machine: a disk may have
// moved, or a whole installation been copied.
func (r *Run) checkMachine() error {
	if r.Job == nil {
		return nil
	}
	if diff := r.Job.Machine.Differs(ThisMachine("/sys")); diff != "" {
		return report.Hint(fmt.Errorf("check machine: it is not the one that was armed: %s", diff), "was the disk moved to another machine? arm it there")
	}
	return nil
}

// ThisMachine reads what the firmware says of the hardware:
// Documentation/ABI/testing/sysfs-firmware-dmi-tables and drivers/firmware/dmi-id.c.
func ThisMachine(sys string) config.MachineIdentity {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(sys, "class/dmi/id", name))
		if err != nil {
			return "" // not every machine has DMI
		}
		return strings.TrimSpace(string(text))
	}
	id := config.MachineIdentity{Vendor: read("sys_vendor"), Product: read("product_name"), Board: read("board_name"), Firmware: "bios"}
	if _, err := os.Stat(filepath.Join(sys, "firmware/efi")); err == nil {
		id.Firmware = "uefi"
	}
	return id
}

// checkManifest tells whether a release is the one that the machine was armed with. A
// bare image has the digest "".
func (r *Run) checkManifest(digest string) error {
	if r.Job == nil || r.Job.Release.Manifest == "" || r.Job.Release.Manifest == digest {
		return nil
	}
	found := "its manifest has the SHA-256 " + digest
	if digest == "" {
		found = "it is a bare image"
	}
	return report.Hint(fmt.Errorf("%s, expected a manifest with %s as when the machine was armed", found, r.Job.Release.Manifest), "copy the release again and arm again")
}
