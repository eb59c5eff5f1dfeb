package stages

import (
	"fmt"
	"regexp"
	"strings"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/lifeboat"
	"reimager/report"
)

// NeededBerth says how large a berth a run needs, in bytes, for files of so many, for what
// it has gathered on a disk of diskBytes, and for its log.
func NeededBerth(kernel, initrd, imageBytes, archive, diskBytes int64, m *image.Map) int64 {
	return lifeboat.Need(kernel, initrd, imageBytes, archive, stateBytes(diskBytes, m)+maxLogAboard)
}

// BerthPartition returns the number of the old system's partition that [power_cut] berth
// names; 0 if it names none. A name below /dev counts by its number, as it does in [new].
func BerthPartition(berth config.Device, old lifeboat.System) (int, error) {
	if berth.IsZero() {
		return 0, nil
	}
	found := partitionsOf(berth, old)
	if len(found) != 1 {
		return 0, report.Hint(fmt.Errorf("find berth %s: %d partitions of the disk are called so", berth, len(found)), "correct [power_cut] berth")
	}
	return found[0], nil
}

// MountsOf are the filesystems that an fstab mounts, also those that nobody mounts at boot.
func MountsOf(fstab []disk.FstabEntry) map[string]config.Device {
	mounts := map[string]config.Device{}
	for _, e := range fstab {
		device, err := config.ParseDevice(e.Spec)
		if err == nil && strings.HasPrefix(e.Dir, "/") && e.Type != "swap" && !e.Has("bind") {
			mounts[e.Dir] = device
		}
	}
	return mounts
}

// Mounted says which partitions of the old system are not for a berth, since it mounts
// them, by their numbers. A name below /dev counts by its number whatever its disk is
// called: letters change. What has a swap's signature is not mounted.
func Mounted(mounts map[string]config.Device, old lifeboat.System) map[int]string {
	inUse := map[int]string{}
	for dir, device := range mounts {
		for _, n := range partitionsOf(device, old) {
			if old.Filesystems[n].Type != "swap" {
				inUse[n] = "the old system mounts it on " + dir
			}
		}
	}
	return inUse
}

// wholeDisk are disks whose names end in a digit, which is no partition's number.
var wholeDisk = regexp.MustCompile(`^/dev/(nvme\d+n|mmcblk)\d+$`)

func partitionsOf(device config.Device, s lifeboat.System) []int {
	if device.Kind == config.ByPath {
		if wholeDisk.MatchString(device.Value) {
			return nil
		}
		device = config.Device{Kind: config.ByNumber, Value: trailingDigits(device.Value)}
	}
	var d disk.Disk
	var found []int
	for _, e := range s.Table.Entries {
		if matches(place{part: disk.Partition{Number: e.Number}, entry: e, fs: s.Filesystems[e.Number]}, device, &d) {
			found = append(found, e.Number)
		}
	}
	return found
}
