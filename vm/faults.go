package vm

import (
	"encoding/json"
	"os"
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

// LoggedBlockdev returns the Blockdev of a disk of which each write, flush and discard
// is recorded in the file log, in the format of Linux' dm-log-writes. What the log holds
// is thrown away.
func LoggedBlockdev(index int, path, log string) ([]string, error) {
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		return nil, err
	}
	disk := fileNode(path)
	disk["discard"] = "unmap"
	// The log has the flushes; neither file has to reach the host's disk.
	record := fileNode(log)
	for _, node := range []map[string]any{disk, record} {
		node["cache"] = map[string]any{"no-flush": true}
	}
	return blockdev(index, map[string]any{
		"driver": "blklogwrites", "discard": "unmap", "file": disk, "log": record,
	})
}

func fileNode(path string) map[string]any {
	return map[string]any{"driver": "file", "filename": path}
}

func blockdev(index int, below map[string]any) ([]string, error) {
	top := map[string]any{"driver": "raw", "node-name": "drive" + strconv.Itoa(index), "file": below}
	if discard, ok := below["discard"]; ok {
		top["discard"] = discard
	}
	text, err := json.Marshal(top)
	return []string{string(text)}, err
}
