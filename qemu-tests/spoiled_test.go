package qemutests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"reimager/config"
	"reimager/qemu-tests/lab"
	"reimager/report"
)

// spoil is something that is wrong with an armed machine before it wakes.
type spoil struct {
	name   string
	change func(t *testing.T, m spoiled)
	want   string // in the error
	mute   bool   // no report can be left; then the console has the error
	only   string // the machine that it concerns; "": each
}

// spoiled is the machine to change: its disk, and where in the data partition the image
// lies.
type spoiled struct{ disk, release, image string }

// machines are the two ways in which an image reaches a machine.
func machines() []string { return []string{"release", "bare"} }

// spoils need no boot of their own: faultboot tries each on each machine. want names
// what was found, and where.
func spoils() []spoil {
	return []spoil{
		{name: "image-missing", change: onData(func(t *testing.T, m spoiled) { must(t, os.Remove(m.image)) }), want: "no such file", only: "release"},
		{name: "image-missing", change: onData(func(t *testing.T, m spoiled) { must(t, os.Remove(m.image)) }), want: "open image: there is no /release/", only: "bare"},
		{name: "image-cut-short", change: onData(func(t *testing.T, m spoiled) { must(t, os.Truncate(m.image, 1000)) }), want: "1000 bytes, expected"},
		{name: "image-bit-flipped", change: onData(func(t *testing.T, m spoiled) { flipMiddle(t, m.image) }), want: "check image"},
		{name: "image-is-a-folder", change: onData(func(t *testing.T, m spoiled) { must(t, os.Remove(m.image)); must(t, os.Mkdir(m.image, 0o755)) }), want: "/release"},
		{name: "image-not-the-armed-one", change: job(func(j *config.Job) { j.Image.SHA256 = strings.Repeat("0", 64) }), want: "as when the machine was armed"},
		{name: "signature-missing", change: onData(func(t *testing.T, m spoiled) { must(t, os.Remove(m.signature())) }), want: "there is no signature"},
		{name: "signature-bit-flipped", change: onData(func(t *testing.T, m spoiled) { flipMiddle(t, m.signature()) }), want: "signature"},
		{name: "signature-empty", change: onData(func(t *testing.T, m spoiled) { must(t, os.Truncate(m.signature(), 0)) }), want: "signature"},
		{name: "manifest-missing", change: onData(func(t *testing.T, m spoiled) { must(t, os.Remove(m.manifest())) }), want: "there is no manifest.json in it", only: "release"},
		{name: "manifest-bit-flipped", change: onData(func(t *testing.T, m spoiled) { flipMiddle(t, m.manifest()) }), want: "manifest.json", only: "release"},
		{name: "map-missing", change: onData(func(t *testing.T, m spoiled) { must(t, os.Remove(m.blockMap(t))) }), want: "no such file", only: "release"},
		{name: "map-bit-flipped", change: onData(func(t *testing.T, m spoiled) { flipMiddle(t, m.blockMap(t)) }), want: "as in the manifest", only: "release"},
		{name: "release-missing", change: onData(func(t *testing.T, m spoiled) { must(t, os.RemoveAll(m.release)) }), want: "open image: there is no /release"},
		{name: "other-serial", change: job(func(j *config.Job) { j.Target.Serial = "ANOTHER" }), want: `expected "ANOTHER"`},
		{name: "other-wwn", change: job(func(j *config.Job) { j.Target.WWN = "0x5000" }), want: `expected "0x5000"`},
		{name: "other-size", change: job(func(j *config.Job) { j.Target.Bytes++ }), want: "is not the disk that was armed: size"},
		{name: "other-partition-table", change: job(func(j *config.Job) { j.Target.PTUUID = "deadbeef" }), want: "partition-table id"},
		{name: "other-old-root", change: job(func(j *config.Job) { j.OldRoot = lab.FixedUUID("another") }), want: "not there after 3s"},
		{name: "image-on-no-device", change: job(func(j *config.Job) { j.Image.Source.Device.Value = lab.FixedUUID("another") }), want: "not there after 3s"},
		{name: "job-missing", change: onBoot(func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "reimager/job.json"))) }), want: "open /reimager/job.json: there is no such file", mute: true},
		{name: "job-cut-short", change: onBoot(func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "reimager/job.json"), 100)) }), want: "parse job", mute: true},
		{name: "retained-path-missing", change: onRoot(func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "etc/machine-id"))) }), want: "find retained path /etc/machine-id"},
		{name: "fstab-missing", change: onRoot(func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "etc/fstab"))) }), want: "fstab"},
		{name: "fstab-names-no-device", change: onRoot(func(t *testing.T, dir string) {
			appendTo(t, filepath.Join(dir, "etc/fstab"), "UUID=11111111-2222-3333-4444-555555555555 /kiosk2 ext4 defaults 0 2\n")
		}), want: "mount /kiosk2 as fstab of"},
		{name: "report-missing", change: both(failing, onRoot(func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, faultReport))) })), want: "1000 bytes, expected", mute: true},
		{name: "report-of-another-run", change: both(failing, onRoot(func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, faultReport), report.EmptyFile("another", report.FileBytes), 0o600))
		})), want: "1000 bytes, expected", mute: true},
		{name: "report-too-short", change: both(failing, onRoot(func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, faultReport), 8192)) })), want: "1000 bytes, expected", mute: true},
		{name: "report-with-a-hole", change: both(failing, onRoot(func(t *testing.T, dir string) { punch(t, filepath.Join(dir, faultReport)) })), want: "1000 bytes, expected", mute: true},
		{name: "report-filesystem-full", change: both(failing, onRoot(fill)), want: "1000 bytes, expected"},
	}
}

const faultReport = "var/lib/reimager/report"

// failing makes the run fail, so that there is something to report.
func failing(t *testing.T, m spoiled) {
	onData(func(t *testing.T, m spoiled) { must(t, os.Truncate(m.image, 1000)) })(t, m)
}

func (m spoiled) manifest() string { return filepath.Join(m.release, "manifest.json") }

// signature is that of the manifest, or of an image that has none.
func (m spoiled) signature() string {
	if _, err := os.Stat(m.image + ".minisig"); err == nil {
		return m.image + ".minisig"
	}
	return m.manifest() + ".minisig"
}

func (m spoiled) blockMap(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(m.release, "*.bmap"))
	if err != nil || len(found) != 1 {
		t.Fatalf("look for the block map: %v, %v", found, err)
	}
	return found[0]
}

// onData, onBoot and onRoot change what is on a partition.
func onData(change func(*testing.T, spoiled)) func(*testing.T, spoiled) {
	return func(t *testing.T, m spoiled) {
		edit(t, m.disk, lab.KioskData, func(dir string) {
			change(t, spoiled{m.disk, filepath.Join(dir, m.release), filepath.Join(dir, m.image)})
		})
	}
}

func onBoot(change func(*testing.T, string)) func(*testing.T, spoiled) {
	return func(t *testing.T, m spoiled) {
		edit(t, m.disk, lab.KioskBoot, func(dir string) { change(t, dir) })
	}
}

func onRoot(change func(*testing.T, string)) func(*testing.T, spoiled) {
	return func(t *testing.T, m spoiled) {
		edit(t, m.disk, lab.KioskRoot, func(dir string) { change(t, dir) })
	}
}

func job(change func(*config.Job)) func(*testing.T, spoiled) {
	return func(t *testing.T, m spoiled) { editJob(t, m.disk, change) }
}

func both(one, two func(*testing.T, spoiled)) func(*testing.T, spoiled) {
	return func(t *testing.T, m spoiled) { one(t, m); two(t, m) }
}

// flipMiddle flips a bit in the middle of a file.
func flipMiddle(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile(name)
	must(t, err)
	text[len(text)/2] ^= 1
	must(t, os.WriteFile(name, text, 0o644))
}

func appendTo(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString(text)
	must(t, err)
	must(t, f.Close())
}

// punch makes a hole in a file.
func punch(t *testing.T, name string) {
	t.Helper()
	if out, err := exec.Command("fallocate", "--punch-hole", "--offset", "8192", "--length", "4096", name).CombinedOutput(); err != nil {
		t.Fatalf("fallocate: %v\n%s", err, out)
	}
}

// fill leaves no byte of a filesystem free.
func fill(t *testing.T, dir string) {
	t.Helper()
	for _, size := range []int{1 << 20, 4096, 1} {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint("full", size)))
		must(t, err)
		block := make([]byte, size)
		for err == nil {
			_, err = f.Write(block)
		}
		if pathErr, ok := err.(*os.PathError); !ok || pathErr.Err != syscall.ENOSPC {
			t.Fatalf("fill the filesystem: %v; want no space", err)
		}
		must(t, f.Close())
	}
}

// variant is a spoiled machine as faultboot reads it.
type variant struct {
	Name  string  `json:"name"`
	Want  string  `json:"want"`
	Mute  bool    `json:"mute"`
	Patch []patch `json:"patch"`
}

type patch struct {
	Off  int64  `json:"off"`
	Data []byte `json:"data"`
}

// variants spoils copies of an armed disk and returns in what these differ from it.
func variants(t *testing.T, disk, image string) []byte {
	t.Helper()
	var all []variant
	for _, machine := range machines() {
		for _, s := range spoils() {
			if s.only != "" && s.only != machine {
				continue
			}
			m := spoiled{disk: filepath.Join(t.TempDir(), "disk"), release: "release", image: "release/" + image}
			must(t, lab.CopySparse(m.disk, disk))
			if machine == "bare" {
				editJob(t, m.disk, func(j *config.Job) { j.Image.Source.Path = "/release/" + image })
			} else {
				edit(t, m.disk, lab.KioskData, func(dir string) { must(t, os.Remove(filepath.Join(dir, "release", image+".minisig"))) })
			}
			s.change(t, m)
			all = append(all, variant{machine + "/" + s.name, s.want, s.mute, patches(t, disk, m.disk)})
			must(t, os.Remove(m.disk))
		}
	}
	text, err := json.Marshal(all)
	must(t, err)
	return text
}

// patches returns the blocks in which a disk differs from another one.
func patches(t *testing.T, before, after string) []patch {
	t.Helper()
	f, err := os.Open(after)
	must(t, err)
	defer f.Close()
	var all []patch
	for _, off := range changed(t, before, after) {
		data := make([]byte, 4096)
		_, err := f.ReadAt(data, off)
		must(t, err)
		all = append(all, patch{off, data})
	}
	return all
}
