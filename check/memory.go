package check

import (
	"fmt"

	"reimager/config"
	"reimager/disk"
	"reimager/retain"
	"reimager/stages"
)

// memoryNeed is what a run takes, in bytes, of all that the kernel manages.
type memoryNeed struct {
	stages.Memory
	Initrd int64 // unpacked
	Least  int64 // what the manifest says, without retained files; 0: nothing
}

// neededMemory counts as a run does, and adds what is taken before it can count.
func neededMemory(r *Release, plan *retain.Plan, diskBytes int64) memoryNeed {
	n := memoryNeed{Memory: stages.NeededMemory(r.ImageBytes, plan, diskBytes, r.Map), Initrd: r.Baked.RawBytes}
	if r.Manifest != nil {
		n.Least = r.Manifest.Memory.Bytes
	}
	return n
}

func (n memoryNeed) total() int64 {
	return max(n.Total()+n.Initrd+config.KernelBytes, n.Least+n.Retained)
}

// judgeMemory compares with MemTotal: what is available now is so under the old
// system, and says nothing of the initrd, which has the machine to itself.
func judgeMemory(total int64, n memoryNeed) Result {
	const hint = "make the image smaller (xz or zstd), retain less, or add memory"
	need := n.total()
	detail := fmt.Sprintf("%s: image %s, retained %s, initrd %s, kernel %s, to work %s", disk.Size(need), disk.Size(n.Image),
		disk.Size(n.Retained), disk.Size(n.Initrd), disk.Size(config.KernelBytes), disk.Size(config.ReserveBytes))
	switch {
	case need > total:
		return fail(Memory, hint, "%s there, needed are %s", disk.Size(total), detail)
	case n.Initrd > total/2:
		// A root in RAM is a tmpfs, which ends at half of it: init/do_mounts.c, init_rootfs.
		return fail(Memory, "bake less into the initrd", "%s there, and the kernel unpacks an initrd into half of it at most; this one has %s", disk.Size(total), disk.Size(n.Initrd))
	case need > total/20*19:
		return warn(Memory, "reimager arm --rehearse measures it", "%s there, hardly more than needed: %s", disk.Size(total), detail)
	}
	return pass(Memory, "%s there, needed are %s", disk.Size(total), detail)
}
