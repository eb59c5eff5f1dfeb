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
	Berth  bool  // there is one, from which the image can be read instead
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

// streamed is what is needed if the image stays in the berth.
func (n memoryNeed) streamed() memoryNeed {
	n.Least = max(0, n.Least-n.Image)
	n.Image = 0
	return n
}

// judgeMemory compares with MemTotal: what is available now is so under the old
// system, and says nothing of the initrd, which has the machine to itself. An image that
// lies in a berth has to fit only if it can.
func judgeMemory(total int64, n memoryNeed) Result {
	hint := "make the image smaller (xz or zstd), retain less, or add memory"
	there := disk.Size(total) + " there"
	almost := total / 20 * 19
	switch {
	case n.Berth && n.total() > almost:
		there += fmt.Sprintf("; the image of %s does not fit into memory: it is streamed from the berth", disk.Size(n.Image))
		n = n.streamed()
	case n.total() > total && n.streamed().total() <= total:
		hint += "; with a lifeboat the image need not fit (see lifeboat)"
	}
	need := n.total()
	detail := fmt.Sprintf("%s: image %s, retained %s, initrd %s, kernel %s, to work %s", disk.Size(need), disk.Size(n.Image),
		disk.Size(n.Retained), disk.Size(n.Initrd), disk.Size(config.KernelBytes), disk.Size(config.ReserveBytes))
	switch {
	case need > total:
		return fail(Memory, hint, "%s, needed are %s", there, detail)
	case n.Initrd > total/2:
		// A root in RAM is a tmpfs, which ends at half of it: init/do_mounts.c, init_rootfs.
		return fail(Memory, "bake less into the initrd", "%s there, and the kernel unpacks an initrd into half of it at most; this one has %s", disk.Size(total), disk.Size(n.Initrd))
	case need > almost:
		return warn(Memory, "reimager arm --rehearse measures it", "%s, hardly more than needed: %s", there, detail)
	}
	return pass(Memory, "%s, needed are %s", there, detail)
}
