// Package qemutests proves in a virtual machine what a run does to a disk. The
// disks are compared from the host, file by file or byte by byte; what the
// console says is only how a test knows where a run stands.
package qemutests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"reimager/config"
	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

// patience bounds one VM; a loaded two-core machine without KVM is slow.
const patience = 5 * time.Minute

// shared is where machines are built that several tests start from.
var shared string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "qemu-tests: not run as root; comparing whole disks needs loop mounts: run them as root")
		return 1
	}
	for _, tool := range []string{"qemu-system-x86_64", "grub-mkimage", "mkfs.ext4", "sfdisk"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(os.Stderr, "qemu-tests: %v; `./dev test` installs it\n", err)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "reimager-qemu-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared = dir
	defer os.RemoveAll(dir)
	return m.Run()
}

func withTimeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// start starts a VM that dies with the test. An emulated machine with one CPU takes a tenth
// less of the host's time than one with two; who measures memory, or walks the main road,
// takes two.
func start(t *testing.T, c vm.Config) *vm.VM {
	t.Helper()
	c.Log = t.Logf
	if c.CPUs == 0 {
		c.CPUs = 1
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 512
	}
	guest, err := lab.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		guest.Kill()
		if t.Failed() {
			t.Logf("console:\n%s", guest.Console.Bytes())
		}
	})
	return guest
}

func wait(ctx context.Context, t *testing.T, guest *vm.VM, text string) {
	t.Helper()
	if err := guest.WaitFor(ctx, text); err != nil {
		t.Fatal(err)
	}
}

// waitScreen waits for a text on the VGA screen.
func waitScreen(ctx context.Context, t *testing.T, guest *vm.VM, text string) {
	t.Helper()
	for {
		screen, err := guest.TextScreen(ctx)
		must(t, err)
		if strings.Contains(screen, text) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the screen lacks %q:\n%s", text, screen)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// waitExit waits until a VM that must not reboot has reset.
func waitExit(ctx context.Context, t *testing.T, guest *vm.VM) {
	t.Helper()
	if err := guest.WaitExit(ctx); err != nil {
		t.Fatal(err)
	}
}

// build puts a kiosk together in a folder of the test.
func build(t *testing.T, spec scenario.Spec) *scenario.Kiosk {
	t.Helper()
	k, err := scenario.Build(withTimeout(t), t.TempDir(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// armedOnce is a kiosk that `reimager arm` has armed and whose power was cut the
// moment that it said so.
var armedOnce = sync.OnceValues(func() (*scenario.Kiosk, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	k, err := scenario.Build(ctx, filepath.Join(shared, "armed"), scenario.Spec{Old: func(o *lab.KioskSpec) {
		o.BootScript = strings.ReplaceAll(scenario.ArmScript, "arm --reboot", "arm")
	}})
	if err != nil {
		return nil, err
	}
	guest, err := lab.Start(ctx, vm.Config{Drives: []vm.Drive{k.Drive()}, MemoryMiB: 512, CPUs: 1})
	if err != nil {
		return nil, err
	}
	err = guest.WaitFor(ctx, "armed: the next boot replaces the operating system")
	guest.Kill()
	return k, err
})

// armed returns a copy of the armed kiosk.
func armed(t *testing.T) *scenario.Kiosk {
	t.Helper()
	base, err := armedOnce()
	if err != nil {
		t.Fatal(err)
	}
	k := *base
	k.Disk = filepath.Join(t.TempDir(), "disk.raw")
	if err := lab.CopySparse(k.Disk, base.Disk); err != nil {
		t.Fatal(err)
	}
	return &k
}

// rebake replaces the initrd of an armed kiosk.
func rebake(t *testing.T, k *scenario.Kiosk, config string, flags ...string) {
	t.Helper()
	initrd, err := os.ReadFile(bake(t, k, config, flags...))
	must(t, err)
	edit(t, k.Disk, lab.KioskBoot, func(boot string) { // which has no room for two of them
		must(t, os.WriteFile(filepath.Join(boot, "reimager/initrd"), initrd, 0o600))
	})
}

// bake makes another initrd for a kiosk.
func bake(t *testing.T, k *scenario.Kiosk, config string, flags ...string) (initrd string) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "reimager.toml"), []byte(config), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "list"), []byte(scenario.UsualList), 0o644))
	imagebuild, err := scenario.Program("imagebuild")
	must(t, err)
	args := []string{"initrd", "--config", filepath.Join(dir, "reimager.toml"), "--retain", filepath.Join(dir, "list"),
		"--modules", k.Kernel.Modules, "-o", filepath.Join(dir, "initrd")}
	if out, err := exec.Command(imagebuild, append(args, flags...)...).CombinedOutput(); err != nil {
		t.Fatalf("imagebuild: %v\n%s", err, out)
	}
	return filepath.Join(dir, "initrd")
}

// tree reads a partition's files.
func tree(t *testing.T, disk string, partition int) map[string]lab.Entry {
	t.Helper()
	files, err := readTree(withTimeout(t), disk, partition)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readTree(ctx context.Context, disk string, partition int) (map[string]lab.Entry, error) {
	entries, err := lab.ReadTree(ctx, disk, partition)
	all := map[string]lab.Entry{}
	for _, e := range entries {
		e.Links = 0 // a directory's count follows its content
		all[e.Path] = e
	}
	return all, err
}

// edit mounts a partition of a disk and lets change it.
func edit(t *testing.T, disk string, partition int, change func(dir string)) {
	t.Helper()
	must(t, lab.WithMount(t.Context(), disk, partition, func(dir string) error {
		change(dir)
		return nil
	}))
}

// editJob changes the job that arm has left.
func editJob(t *testing.T, disk string, change func(*config.Job)) {
	t.Helper()
	edit(t, disk, lab.KioskBoot, func(dir string) {
		name := filepath.Join(dir, "reimager/job.json")
		job, err := config.ReadJob(name)
		if err != nil {
			t.Fatal(err)
		}
		change(job)
		text, err := job.Encode()
		if err != nil {
			t.Fatal(err)
		}
		must(t, os.WriteFile(name, text, 0o600))
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// changed returns the offsets of the 4 KiB blocks in which two files differ.
func changed(t *testing.T, one, two string) []int64 {
	t.Helper()
	const block = 4096
	a, err := os.Open(one)
	must(t, err)
	defer a.Close()
	b, err := os.Open(two)
	must(t, err)
	defer b.Close()
	info, err := a.Stat()
	must(t, err)
	var offsets []int64
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < info.Size(); off += int64(len(x)) {
		n := min(int64(len(x)), info.Size()-off)
		_, err := a.ReadAt(x[:n], off)
		must(t, err)
		_, err = b.ReadAt(y[:n], off)
		must(t, err)
		for i := int64(0); i < n; i += block {
			end := min(n, i+block)
			if !bytes.Equal(x[i:end], y[i:end]) {
				offsets = append(offsets, off+i)
			}
		}
	}
	return offsets
}

// recordOf reads the record that a run has left on a disk.
func recordOf(t *testing.T, disk string, partition int, path string) (record map[string]any) {
	t.Helper()
	text, err := lab.ReadFile(t.Context(), disk, partition, path)
	must(t, err)
	must(t, json.Unmarshal(text, &record))
	return record
}
