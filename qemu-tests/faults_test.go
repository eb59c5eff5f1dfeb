package qemutests

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"reimager/boot"
	"reimager/config"
	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/report"
	"reimager/vm"
)

var (
	faultLimit = flag.Int("faults", 24, "how many system calls TestEveryCallFails lets fail, before casting off and after it each, and a third of that while a lifeboat boards and in each kind of start from it")
	faultOnly  = flag.String("fault", "", "the one fault that TestEveryCallFails tries, as its table names it: STAGE/CALL/NTH/ERRNO")
)

// faultResult is a line of faultboot's table.
type faultResult struct {
	Fault, End          string
	Hit, Wrong, Notable []string
	Seconds             float64
}

// A table of faults × stages, made from the system calls of a clean run: whichever of
// the worker's calls fails, once or for good, the machine ends in its old system, whole
// and with a report, in its new one, complete, or it stands still with a disk that does
// not boot. All of it happens in two virtual machines: qemu-tests/faultboot.
func TestEveryCallFails(t *testing.T) {
	t.Parallel()
	m := faultMachine(t)
	for _, part := range []string{"before", "after", "spoiled", "boarding", "aboard", "adrift"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			limit := *faultLimit
			if part == "boarding" || part == "aboard" || part == "adrift" { // which have most of their code in common with the others
				limit /= 3
			}
			more := fmt.Sprintf(" faults.part=%s faults.limit=%d faults.job=%s", part, limit, m.boards)
			if part == "boarding" {
				more += " faults.also=" + strings.Join(brokeBoarding(), ",")
			}
			if *faultOnly != "" {
				more += " faults.only=" + *faultOnly
			}
			results := m.table(t, m.parameters+more)
			hits, ends := 0, map[string]int{}
			for _, r := range results {
				ends[r.End]++
				if len(r.Hit) > 0 {
					hits++
				} else if part == "boarding" && slices.Contains(brokeBoarding(), r.Fault) {
					t.Errorf("%s: there is no such call any more; name the fault anew", r.Fault)
				}
				if len(r.Wrong) > 0 {
					t.Errorf("%s: %s\nto see it alone: go test -v -run TestEveryCallFails/%s ./qemu-tests -fault '%s'", r.Fault, strings.Join(r.Wrong, "\n"), part, r.Fault)
				}
			}
			t.Logf("%d faults, %d of them struck: %v", len(results), hits, ends)
			// Which call is the n-th is not quite the same each time, so that a last one may not come.
			if part != "spoiled" && *faultOnly == "" && hits < len(results)*3/4 {
				t.Errorf("%d of %d faults struck; want three of four", hits, len(results))
			}
		})
	}
}

// brokeBoarding are faults after which a machine once had a report without an outcome, kept
// what was gathered in its berth, or was left with GRUB's order to start what is not there.
func brokeBoarding() []string {
	return []string{"board/openat/1+/EIO", "board/write/1+/ENOSPC", "board/close(sda1)/1/EIO"}
}

// faultVM is a virtual machine that tries faults.
type faultVM struct {
	kernel, initrd, parameters string
	boards                     string // the job with which a lifeboat boards
}

// table boots it and reads what it says.
func (m faultVM) table(t *testing.T, parameters string) []faultResult {
	t.Helper()
	read, write := io.Pipe()
	guest := start(t, vm.Config{Kernel: m.kernel, Initrd: m.initrd, Append: parameters, MemoryMiB: 768, NoReboot: true, Console: write})
	go func() {
		_ = write.CloseWithError(guest.Wait()) // the lines tell whether it came to its end
	}()
	defer read.Close() // what the machine says after its last line is of no interest
	var all []faultResult
	lines := bufio.NewScanner(read)
	for lines.Scan() {
		text := strings.TrimSpace(lines.Text())
		found, ok := strings.CutPrefix(text, "FAULT ")
		if !ok {
			t.Log(text)
			if text == "FAULTS done" {
				return all
			}
			continue
		}
		var r faultResult
		must(t, json.Unmarshal([]byte(found), &r))
		t.Logf("%-40s %-5s %4.1f s  %s %s", r.Fault, r.End, r.Seconds, strings.Join(r.Hit[:min(1, len(r.Hit))], ""), strings.Join(r.Notable, "; "))
		all = append(all, r)
	}
	t.Fatalf("the machine did not come to its end: %v", lines.Err())
	return nil
}

// faultConfig has little patience, so that a device that never comes costs little time.
const faultConfig = `[machine]
modules = ["scsi_debug", "sd_mod", "ext4"]
device_timeout = "3s"

[new]
log_dir = "/kiosk/log"
`

const faultList = `/etc/machine-id
/etc/kiosk/keys
/srv/*
/kiosk/state
@identity
`

// faultMachine builds a disk as small as can be, armed, and the initrd that tries
// faults on it. The disk lives in the memory of the virtual machine, as scsi_debug.
func faultMachine(t *testing.T) faultVM {
	t.Helper()
	ctx, dir := withTimeout(t), t.TempDir()
	cache, err := lab.OpenCache()
	must(t, err)
	kernel, err := lab.StockKernel(ctx, cache)
	must(t, err)
	config, list, key := filepath.Join(dir, "reimager.toml"), filepath.Join(dir, "list"), filepath.Join(dir, "fleet")
	must(t, os.WriteFile(config, []byte(faultConfig), 0o644))
	must(t, os.WriteFile(list, []byte(faultList), 0o644))
	tool(t, "imagebuild", "keygen", "--no-password", "-o", key)

	newDisk, release := filepath.Join(dir, "new.raw"), filepath.Join(dir, "release")
	spec := faultDisk("new", 17)
	spec.Partitions[1].Tree = faultRoot("new")
	_, err = lab.BuildDisk(ctx, newDisk, spec)
	must(t, err)
	tool(t, "imagebuild", "pack", newDisk, "-o", release, "--key", key+".key", "--name", "kiosk", "--version", "2.0", "--counter", "7")

	old := filepath.Join(dir, "old.raw")
	image := theImage(t, release)
	if out, err := exec.Command("minisign", "-S", "-W", "-s", key+".key", "-m", image).CombinedOutput(); err != nil {
		t.Fatalf("minisign: %v\n%s", err, out)
	}
	job, boards := buildFaultyOld(t, old, release)
	spoiled := filepath.Join(dir, "variants.json")
	must(t, os.WriteFile(spoiled, variants(t, old, filepath.Base(image)), 0o644))
	harness := filepath.Join(dir, "faultboot")
	compile := exec.Command("go", "build", "-trimpath", "-o", harness, "reimager/qemu-tests/faultboot")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("build faultboot: %v\n%s", err, out)
	}
	init, err := scenario.Program("init")
	must(t, err)
	m := faultVM{kernel: kernel.Image, initrd: filepath.Join(dir, "initrd"), boards: boards,
		parameters: "console=ttyS0 quiet panic=-1 no_timer_check scsi_debug.dev_size_mb=28 scsi_debug.delay=0 scsi_debug.lbpws=1 reimager.job=" + job}
	tool(t, "imagebuild", "initrd", "--config", config, "--retain", list, "--key", key+".pub", "--modules", kernel.Modules, "-o", m.initrd,
		"--init", harness, "--include", init+":/reimager-init", "--include", packed(t, old)+":/faultboot/old.zst", "--include", spoiled+":/faultboot/variants.json")
	return m
}

// faultDisk is the layout that both systems have: boot, root, swap, data and /kiosk.
func faultDisk(name string, size int64) lab.DiskSpec {
	id := map[string]string{"old": "0x01fa0175", "new": "0x02fa0175"}[name]
	part := func(number int, size int64) lab.Partition {
		return lab.Partition{SizeMiB: size, FS: lab.Ext4, Label: fmt.Sprintf("%s-%d", name, number), UUID: lab.FixedUUID(fmt.Sprint("faults ", name, number)), Logical: number > 4,
			Features: map[string]string{"new": "^has_journal,^resize_inode"}[name]} // small, since each try writes it
	}
	boot, swap := part(1, 2), part(3, 1)
	boot.Bootable, swap.FS = true, lab.Swap
	return lab.DiskSpec{SizeMiB: size, Label: lab.MBR, ID: id,
		Partitions: []lab.Partition{boot, part(2, 4), swap, {FS: lab.Extended}, part(5, 3), part(6, 4)}}
}

// faultRoot is a root without programs: nobody boots it.
func faultRoot(name string) lab.Tree {
	uuid := func(number int) string { return "UUID=" + lab.FixedUUID(fmt.Sprint("faults ", name, number)) }
	uid := map[string]int{"old": 990, "new": 880}[name]
	return lab.Tree{
		lab.Dir("kiosk", 0o755, 0, 0), lab.Dir("data", 0o755, 0, 0), lab.Dir("boot", 0o755, 0, 0),
		lab.Text("etc/fstab", 0o644, uuid(2)+" / ext4 defaults 0 1\n"+uuid(6)+" /kiosk ext4 defaults 0 2\n"),
		lab.Text("etc/passwd", 0o644, fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\natm:x:%d:%d::/:/sbin/nologin\n", uid, uid)),
		lab.Text("etc/group", 0o644, fmt.Sprintf("root:x:0:\natm:x:%d:\n", uid)),
		lab.Text("etc/machine-id", 0o444, strings.ReplaceAll(lab.FixedUUID(name), "-", "")+"\n"),
		lab.Text("etc/hostname", 0o644, name+"\n"),
	}
}

// buildFaultyOld builds the old disk with the release and the jobs that arm it, without a
// lifeboat and with one, and returns where they lie.
func buildFaultyOld(t *testing.T, path, release string) (job, boards string) {
	t.Helper()
	const run = "faultboot"
	spec := faultDisk("old", 28) // with room for a berth behind its last partition
	at := func(number int, path string) config.Source {
		return config.Source{Device: config.Device{Kind: config.ByUUID, Value: spec.Partitions[number-1].UUID}, Path: path}
	}
	entries, err := os.ReadDir(release)
	must(t, err)
	for _, e := range entries {
		spec.Partitions[4].Tree = append(spec.Partitions[4].Tree, lab.File{Path: "release/" + e.Name(), Source: filepath.Join(release, e.Name())})
	}
	image := theImage(t, release)
	info, err := os.Stat(image)
	must(t, err)
	j := &config.Job{Format: config.JobFormat, RunID: run, Armed: time.Unix(1700000000, 0).UTC(),
		Image: config.JobImage{Source: at(5, "/release"), Bytes: info.Size(), SHA256: sumOf(t, image)},
		// scsi_debug has a serial number of its own.
		Target:  config.DiskIdentity{Bytes: spec.SizeMiB << 20, PTUUID: strings.TrimPrefix(spec.ID, "0x")},
		OldRoot: spec.Partitions[1].UUID, Gate: at(1, "/reimager/gate"),
		Report: config.JobReport{Source: at(2, "/var/lib/reimager/report"), Bytes: report.FileBytes},
	}
	text, err := j.Encode()
	must(t, err)
	// What boards is never started: the harness stands in for GRUB.
	j.Boot = &config.JobKernel{Kernel: at(1, "/vmlinuz"), Initrd: at(1, "/initrd")}
	withBoat, err := j.Encode()
	must(t, err)
	gate, err := boot.Gate(run, boot.GateArmed, 0)
	must(t, err)
	spec.Partitions[0].Tree = lab.Tree{lab.Text("reimager/job.json", 0o600, string(text)), lab.Text("reimager/boards.json", 0o600, string(withBoat)),
		lab.Text("reimager/gate", 0o600, string(gate)), lab.Text("vmlinuz", 0o600, strings.Repeat("kernel ", 3000)), lab.Text("initrd", 0o600, strings.Repeat("initrd ", 2000))}
	key := lab.Text("etc/kiosk/keys/client.key", 0o600, "the till's own\n")
	key.UID, key.GID, key.Xattrs = 990, 990, map[string]string{"user.kept": "yes"}
	spec.Partitions[1].Tree = append(faultRoot("old"), key,
		lab.Text("srv/with spaces", 0o640, "spaces"), lab.Symlink("srv/link", "with spaces"), lab.File{Path: "srv/hard", HardLink: "srv/with spaces"},
		lab.Text("var/lib/reimager/report", 0o600, string(report.EmptyFile(run, report.FileBytes))))
	spec.Partitions[5].Tree = lab.Tree{lab.Text("state", 0o600, strings.Repeat("state ", 20000))}
	_, err = lab.BuildDisk(t.Context(), path, spec)
	must(t, err)
	return at(1, "/reimager/job.json").String(), at(1, "/reimager/boards.json").String()
}

// theImage is the image of a release.
func theImage(t *testing.T, release string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(release, "*.zst"))
	if err != nil || len(found) != 1 {
		t.Fatalf("look for the image in the release: %v, %v", found, err)
	}
	return found[0]
}

// packed compresses a disk.
func packed(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	z, err := zstd.NewWriter(nil)
	must(t, err)
	name := path + ".zst"
	must(t, os.WriteFile(name, z.EncodeAll(raw, nil), 0o644))
	return name
}

// tool runs a program of ours.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	program, err := scenario.Program(name)
	must(t, err)
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, args[0], err, out)
	}
}

// sumOf is the SHA-256 of a file.
func sumOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(text))
}
