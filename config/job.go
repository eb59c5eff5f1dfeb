package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// JobFormat is the version of the job file that this program writes and reads.
const JobFormat = 3

// Job is what `reimager arm` leaves for the initrd: which image, which disk, where
// to report. It can only narrow the baked configuration: a machine that does not
// fit it goes back to its old system.
type Job struct {
	Format int       `json:"format"`
	RunID  string    `json:"run_id"` // random, names this run in log and record
	Armed  time.Time `json:"armed"`
	// Image replaces [image] source; Bytes and SHA256 are of the compressed file
	// as it was when the machine was armed.
	Image JobImage `json:"image"`
	// Target is the disk that held the root when the machine was armed.
	Target DiskIdentity `json:"target"`
	// OldRoot is the filesystem UUID of the root that armed.
	OldRoot string `json:"old_root"`
	// Report is the preallocated file that a failed run overwrites in place.
	Report JobReport `json:"report"`
	// Rehearse ends the run at the point of no return: everything is proven and
	// measured, nothing is written, the old system boots.
	Rehearse bool `json:"rehearse,omitempty"`
	// Machine is the hardware as its firmware names it.
	Machine MachineIdentity `json:"machine"`
	// Release is what was armed, for messages and record; without a manifest it is empty.
	Release JobRelease `json:"release"`
	// Gate is the file that tells whether the run may still begin.
	Gate Source `json:"gate"`
	// WayBack is how the old system boots where the boot loader cannot be relied on.
	WayBack *JobKernel `json:"way_back,omitempty"`
	// Boot is what the boot loader starts for this run, without the parameter that names
	// this job: a lifeboat takes it aboard. nil: the run is not started by a boot loader
	// that heeds the gate, so there is none.
	Boot *JobKernel `json:"boot,omitempty"`
	// Proof says that `imagebuild prove` tries a release out on a machine that nobody would
	// miss: it has no lifeboat, whatever the configuration requires.
	Proof bool `json:"proof,omitempty"`
	// Media is there in the job of a stick of `imagebuild media`: no old system has armed
	// it, and there may be none any more.
	Media *JobMedia `json:"media,omitempty"`
}

// JobMedia is what a stick brings beside the release.
type JobMedia struct {
	// Keep is what `reimager capture` has kept of the machine, for one whose own files
	// are lost; nil: nothing.
	Keep *JobKeep `json:"keep,omitempty"`
}

// JobKeep is an archive of `reimager capture`.
type JobKeep struct {
	Source Source `json:"source"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	Files  int    `json:"files"` // files and directories in it
}

// JobRelease names a release: its manifest's digest decides, the rest is for reading.
type JobRelease struct {
	Name     string `json:"name,omitempty"`
	Version  string `json:"version,omitempty"`
	Counter  int64  `json:"counter,omitempty"`
	Manifest string `json:"manifest_sha256,omitempty"`
}

// MachineIdentity is what /sys/class/dmi/id says of the hardware. Empty fields are not
// known and not compared.
type MachineIdentity struct {
	Vendor   string `json:"vendor,omitempty"`   // sys_vendor
	Product  string `json:"product,omitempty"`  // product_name
	Board    string `json:"board,omitempty"`    // board_name
	Firmware string `json:"firmware,omitempty"` // "bios" or "uefi"
}

// Differs names the first way in which a machine is not the expected one, or returns "".
// What is not expected is not compared.
func (want MachineIdentity) Differs(found MachineIdentity) string {
	for _, f := range []struct{ what, want, found string }{
		{"vendor", want.Vendor, found.Vendor},
		{"product", want.Product, found.Product},
		{"board", want.Board, found.Board},
		{"firmware", want.Firmware, found.Firmware},
	} {
		if f.what == "firmware" && f.want == "uefi" && f.found == "bios" {
			continue // a kernel that kexec started may not be told of UEFI
		}
		if f.want != "" && f.want != f.found {
			return fmt.Sprintf("%s %q, expected %q", f.what, f.found, f.want)
		}
	}
	return ""
}

// JobKernel is a kernel with its initrd and command line.
type JobKernel struct {
	Kernel  Source `json:"kernel"`
	Initrd  Source `json:"initrd"`
	Cmdline string `json:"cmdline"`
}

// JobImage is the image that was armed.
type JobImage struct {
	Source Source `json:"source"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// JobReport is the report file that was preallocated.
type JobReport struct {
	Source Source `json:"source"`
	Bytes  int64  `json:"bytes"`
}

// DiskIdentity is what a disk is, as opposed to the letter it happens to get.
// Empty fields are not known and not compared.
type DiskIdentity struct {
	Serial string `json:"serial,omitempty"`
	WWN    string `json:"wwn,omitempty"`
	Model  string `json:"model,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
	PTUUID string `json:"ptuuid,omitempty"` // of the partition table
}

// Differs names the first way in which a found disk is not the expected one, or
// returns "". The model is for reading only.
func (want DiskIdentity) Differs(found DiskIdentity) string {
	for _, f := range []struct{ what, want, found string }{
		{"serial", want.Serial, found.Serial},
		{"WWN", want.WWN, found.WWN},
		{"partition-table id", want.PTUUID, found.PTUUID},
	} {
		if f.want != "" && f.want != f.found {
			return fmt.Sprintf("%s %q, expected %q", f.what, f.found, f.want)
		}
	}
	if want.Bytes != 0 && want.Bytes != found.Bytes {
		return fmt.Sprintf("size %d bytes, expected %d", found.Bytes, want.Bytes)
	}
	return ""
}

// Encode returns the job as ParseJob reads it.
func (j *Job) Encode() ([]byte, error) {
	text, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode job: %w", err)
	}
	return append(text, '\n'), nil
}

// ReadJob reads and checks a job file.
func ReadJob(name string) (*Job, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read job: %w", err)
	}
	return ParseJob(name, text)
}

// ParseJob reads and checks a job. name is used in errors.
func ParseJob(name string, text []byte) (*Job, error) {
	var j Job
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return nil, fmt.Errorf("parse job %s: %w", name, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("parse job %s: something follows the job", name)
	}
	switch {
	case j.Format != JobFormat:
		return nil, fmt.Errorf("parse job %s: format %d, expected %d", name, j.Format, JobFormat)
	case j.RunID == "":
		return nil, fmt.Errorf("parse job %s: no run_id", name)
	case j.Image.Source.IsZero():
		return nil, fmt.Errorf("parse job %s: no image source", name)
	}
	return &j, nil
}
