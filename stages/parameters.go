package stages

import (
	"fmt"
	"os"
	"strings"

	"reimager/boot"
)

// JobParameter is the kernel parameter that names the job: DEVICE:/path.
const JobParameter = "reimager.job"

// What the menu of a stick adds: stages.Parameters says what they mean.
const (
	MediaParameter = "reimager.media"
	OnceParameter  = "reimager.once"
)

// Parameters are those of the kernel command line that are ours. They shorten a run or
// explain it, and never allow what was not baked in: whoever stands before a machine
// can type them.
type Parameters struct {
	Job      string   // DEVICE:/path
	Lifeboat string   // RUN@SECTOR: started from the berth there
	Rehearse bool     // end at the point of no return
	Cancel   bool     // go back at once
	Verbose  bool     // details on the screen
	Media    bool     // started from a stick: there may be no old system to go back to
	Once     bool     // do nothing if this stick's system is on the disk already
	Unknown  []string // named like ours, and without any effect
}

// ReadParameters reads the command line of the running kernel.
func ReadParameters() (Parameters, error) {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return Parameters{}, fmt.Errorf("read kernel command line: %w", err)
	}
	return parseParameters(string(text)), nil
}

// parseParameters takes a switch as on whatever its value is, and of a job that is
// named twice the last.
func parseParameters(cmdline string) Parameters {
	var p Parameters
	for _, word := range strings.Fields(cmdline) {
		name, value, _ := strings.Cut(word, "=")
		switch {
		case name == JobParameter:
			p.Job = value
		case name == boot.LifeboatParameter:
			p.Lifeboat = value
		case name == "reimager.rehearse":
			p.Rehearse = true
		case name == "reimager.cancel":
			p.Cancel = true
		case name == "reimager.verbose":
			p.Verbose = true
		case name == MediaParameter:
			p.Media = true
		case name == OnceParameter:
			p.Once = true
		case strings.HasPrefix(name, "reimager."):
			p.Unknown = append(p.Unknown, name)
		}
	}
	return p
}
