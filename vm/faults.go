package vm

import (
	"encoding/json"
	"strconv"
)

// Fault is an error that QEMU's blkdebug driver injects into a disk.
type Fault struct {
	Sector int64  // of 512 bytes, any request that touches it; -1: every one
	IOType string // "read", "write", "flush", "discard", "write-zeroes"
	Errno  int    // as in Linux' errno(3); 0: EIO
	Once   bool   // the next request succeeds
}

// FaultyBlockdev returns the Blockdev of the drive with that index in
// Config.Drives, on the raw file at path, failing as the faults say.
func FaultyBlockdev(index int, path string, faults ...Fault) ([]string, error) {
	rules := []map[string]any{}
	for _, f := range faults {
		errno := f.Errno
		if errno == 0 {
			errno = 5
		}
		rule := map[string]any{"event": "none", "iotype": f.IOType, "errno": errno, "once": f.Once}
		if f.Sector >= 0 {
			rule["sector"] = f.Sector
		}
		rules = append(rules, rule)
	}
	return blockdev(index, map[string]any{
		"driver": "blkdebug", "inject-error": rules, "image": fileNode(path),
	})
}

// ThrottledBlockdev returns the Blockdev of a disk that moves at most
// bytesPerSecond, and the arguments of QEMU (Config.Extra) that it needs.
func ThrottledBlockdev(index int, path string, bytesPerSecond int64) (blockdevs, extra []string, err error) {
	group := "throttle" + strconv.Itoa(index)
	extra = []string{"-object", "throttle-group,id=" + group + ",x-bps-total=" + strconv.FormatInt(bytesPerSecond, 10)}
	blockdevs, err = blockdev(index, map[string]any{
		"driver": "throttle", "throttle-group": group, "file": fileNode(path),
	})
	return blockdevs, extra, err
}

func fileNode(path string) map[string]any {
	return map[string]any{"driver": "file", "filename": path}
}

func blockdev(index int, below map[string]any) ([]string, error) {
	text, err := json.Marshal(map[string]any{
		"driver": "raw", "node-name": "drive" + strconv.Itoa(index), "file": below,
	})
	return []string{string(text)}, err
}
