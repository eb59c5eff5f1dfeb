// Command init is PID 1 of the reimager's initrd. It replaces the operating
// system on the machine's disk and gives the machine its own files back.
//
// PID 1 itself only supervises: it starts this same binary again as a worker,
// reaps, and decides through outcome.go what an end of the worker means. The
// worker's story is work.go.
package main

import (
	"fmt"
	"os"

	"reimager/hook"
)

// version is set by the linker; it names the source that this was built from.
var version = "unknown"

func main() { os.Exit(run(os.Args, os.Getpid())) }

// The jobs that PID 1 gives to other processes of the same binary.
const (
	workerName    = "reimager-worker"
	startVariable = "REIMAGER_STARTED" // when PID 1 began, for the worker
	didVariable   = "REIMAGER_DID"     // what the machine does about the end of the run
	jobGather     = "gather"           // the whole run
	jobResume     = "resume"           // from the write on, with what is in RAM
	jobUndo       = "undo"             // unmount, and report into the old system
)

func run(args []string, pid int) int {
	if len(args) == 3 && args[0] == workerName {
		return work(args[1], args[2])
	}
	if len(args) > 0 && args[0] == hook.ChildName { // PID 1 too, but of a namespace
		return hook.Child()
	}
	if pid == 1 {
		supervise()
	}
	fmt.Fprintln(os.Stderr, "this is the init of an initrd that replaces the operating system of a machine; it runs as PID 1 only")
	return 2
}
