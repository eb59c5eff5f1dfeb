package qemutests

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
)

// command runs a program and returns what it says.
func command(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// ok runs a program that has to succeed.
func ok(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := command(t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

// loop attaches a file of that many bytes to a loop device.
func loop(t *testing.T, bytes int64, flags ...string) (device, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Truncate(file, bytes))
	device = ok(t, "losetup", append(append([]string{"--find", "--show"}, flags...), file)...)
	t.Cleanup(func() { ok(t, "losetup", "-d", device) })
	return device, file
}

// sampleImage is a raw image with a boot sector, data and zeros.
func sampleImage(t *testing.T, n int) (name string, content []byte) {
	t.Helper()
	content = bytes.Repeat([]byte("reimager sample!"), n/16)
	clear(content[n/3 : n/2])
	content[510], content[511] = 0x55, 0xaa
	clear(content[446:510])
	name = filepath.Join(t.TempDir(), "sample.img")
	must(t, os.WriteFile(name, content, 0o600))
	return name, content
}

// `reimager write` on real block devices: what is in use is refused by name, what is
// free becomes the image, on sectors of 512 and of 4096 bytes.
func TestWriteToDisks(t *testing.T) {
	t.Parallel()
	reimager, err := scenario.Program("reimager")
	must(t, err)
	img, content := sampleImage(t, 10<<20)
	for _, sector := range []string{"512", "4096"} {
		device, file := loop(t, 12<<20, "--sector-size", sector, "--direct-io=on")
		ok(t, reimager, "write", img, device, "--yes", "--unmapped", "zero")
		got, err := os.ReadFile(file)
		must(t, err)
		if !bytes.Equal(got[:len(content)], content) || len(bytes.Trim(got[len(content):], "\x00")) > 0 {
			t.Errorf("sectors of %s bytes: the device does not hold the image", sector)
		}
		if out, err := command(t, reimager, "write", img, file, "--yes"); err == nil || !strings.Contains(out, "it is attached to "+device) {
			t.Errorf("the file behind %s: %v\n%s; want it refused", device, err, out)
		}
		link := file + ".link"
		must(t, os.Link(file, link))
		relative := exec.Command(reimager, "write", img, filepath.Base(file), "--yes")
		relative.Dir = filepath.Dir(file)
		if out, err := relative.CombinedOutput(); err == nil || !strings.Contains(string(out), "it is attached to "+device) {
			t.Errorf("the file by a relative name: %v\n%s; want it refused", err, out)
		}
		if out, err := command(t, reimager, "write", img, link, "--yes"); err == nil || !strings.Contains(out, "it is attached to "+device) {
			t.Errorf("the file by another name: %v\n%s; want it refused", err, out)
		}
		over := ok(t, "losetup", "--find", "--show", device)
		out, err := command(t, reimager, "write", img, device, "--yes")
		ok(t, "losetup", "-d", over)
		if err == nil || !strings.Contains(out, device+" is behind "+over) {
			t.Errorf("the device behind another: %v\n%s; want it refused", err, out)
		}
	}
}

// peak runs a program that has to succeed, and returns the memory that it has had at
// most, in MiB. It looks at VmHWM while the program runs: ru_maxrss begins with what this
// process held when it started the program (vfork(2) shares its memory).
func peak(t *testing.T, name string, args ...string) (mib int64) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			if err != nil || mib == 0 {
				t.Fatalf("%s %q: %v, %d MiB\n%s", name, args, err, mib, out.Bytes())
			}
			return mib
		case <-time.After(10 * time.Millisecond):
			mib = max(mib, highWater(cmd.Process.Pid))
		}
	}
}

// highWater is a running program's peak of resident memory in MiB: proc_pid_status(5).
func highWater(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0 // it has ended
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib >> 10
		}
	}
	return 0
}

// Packing and writing take no more memory for a larger image: on two processors at
// most 512 and 128 MiB.
func TestMemoryOfPackAndWrite(t *testing.T) {
	t.Parallel()
	reimager, err := scenario.Program("reimager")
	must(t, err)
	imagebuild, err := scenario.Program("imagebuild")
	must(t, err)
	const size = 64 << 20
	img := filepath.Join(t.TempDir(), "large.img")
	f, err := os.Create(img)
	must(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	for piece, n := make([]byte, 1<<20), 0; n < size; n += len(piece) {
		for i := 0; i < len(piece); i += 16 { // half of it compresses
			binary.LittleEndian.PutUint64(piece[i:], r.Uint64())
		}
		_, err = f.Write(piece)
		must(t, err)
	}
	boot := make([]byte, 512)
	boot[510], boot[511] = 0x55, 0xaa
	_, err = f.WriteAt(boot, 0)
	must(t, errors.Join(err, f.Close()))
	disk := filepath.Join(t.TempDir(), "disk")
	for _, format := range []string{"zst", "bz2"} {
		release := filepath.Join(t.TempDir(), "release")
		packing := peak(t, imagebuild, "pack", img, "-o", release, "--format", format, "--workers", "2")
		must(t, os.WriteFile(disk, nil, 0o600))
		must(t, os.Truncate(disk, size))
		writing := peak(t, reimager, "write", release, disk, "--yes", "--workers", "2")
		t.Logf("%s: pack %d MiB, write %d MiB", format, packing, writing)
		if packing > 512 || writing > 128 {
			t.Errorf("%s: pack takes %d MiB, write %d MiB; want at most 512 and 128", format, packing, writing)
		}
	}
}

func TestWriteRefusesDisksInUse(t *testing.T) {
	t.Parallel()
	reimager, err := scenario.Program("reimager")
	must(t, err)
	img, _ := sampleImage(t, 1<<20)
	device, file := loop(t, 64<<20)
	refused := func(what, want string) {
		t.Helper()
		before, err := os.ReadFile(file)
		must(t, err)
		if out, err := command(t, reimager, "write", img, device, "--yes"); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s\nwant it refused with %q", what, err, out, want)
		}
		after, err := os.ReadFile(file)
		must(t, err)
		if what != "mounted" && !bytes.Equal(before, after) {
			t.Errorf("%s: the disk was changed", what)
		}
	}
	ok(t, "mkfs.ext4", "-q", device)
	dir := t.TempDir()
	ok(t, "mount", device, dir)
	refused("mounted", device+" is mounted at "+dir)
	must(t, lab.Unmount(t.Context(), dir))
	ok(t, "mkswap", "-q", "-f", device)
	if out, err := command(t, "swapon", device); err == nil {
		refused("swap", device+" is swap")
		ok(t, "swapoff", device)
	} else {
		t.Logf("swapon: %s", out) // a container's kernel may not let us
	}
	// O_EXCL without O_CREAT claims a block device: open(2).
	holder, err := os.OpenFile(device, os.O_RDONLY|os.O_EXCL, 0)
	must(t, err)
	defer holder.Close()
	refused("claimed", fmt.Sprintf("process %d", os.Getpid()))
}

// What the image does not need is told to the disk, and only that: here a loop device,
// whose file gets a hole.
func TestWriteDiscards(t *testing.T) {
	t.Parallel()
	reimager, err := scenario.Program("reimager")
	must(t, err)
	img, content := sampleImage(t, 10<<20)
	device, file := loop(t, 12<<20, "--direct-io=on")
	for _, unmapped := range []string{"leave", "discard"} {
		old := bytes.Repeat([]byte("old "), 12<<20/4)
		must(t, os.WriteFile(file, old, 0o600))
		ok(t, reimager, "write", img, device, "--yes", "--unmapped", unmapped)
		got, err := os.ReadFile(file)
		must(t, err)
		want := bytes.Clone(old[len(content):])
		if unmapped == "discard" {
			clear(want[:len(want)-512]) // the last sector is held back: a GPT may end there
		}
		if !bytes.Equal(got[:len(content)], content) || !bytes.Equal(got[len(content):], want) {
			t.Errorf("--unmapped %s: the device holds something else", unmapped)
		}
	}
}

// withoutRoom makes a file of a size for which its filesystem has no room.
func withoutRoom(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	ok(t, "mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", dir)
	t.Cleanup(func() { must(t, lab.Unmount(context.WithoutCancel(t.Context()), dir)) })
	file := filepath.Join(dir, "disk")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Truncate(file, size))
	return file
}

// A file in the place of a disk for which there is no room: the sector is named.
func TestWriteNamesTheSectorThatHasNoRoom(t *testing.T) {
	t.Parallel()
	reimager, err := scenario.Program("reimager")
	must(t, err)
	img, content := sampleImage(t, 24<<20)
	file := withoutRoom(t, int64(len(content)))
	out, err := command(t, reimager, "write", img, file, "--yes")
	if err == nil || !regexp.MustCompile(`write .*/disk: sector \d+: no space left on device`).MatchString(out) {
		t.Errorf("write: %v\n%s\nwant an error that names a sector", err, out)
	}
}

// A disk that fails from some sector on: the sector is named, and what the disk holds
// by then does not boot.
func TestWriteNamesTheBadSector(t *testing.T) {
	t.Parallel()
	reimager, err := scenario.Program("reimager")
	must(t, err)
	img, content := sampleImage(t, 24<<20)
	// A loop device reports an I/O error where its file finds no more room.
	file := withoutRoom(t, int64(len(content)))
	device := ok(t, "losetup", "--find", "--show", file)
	defer ok(t, "losetup", "-d", device)
	out, err := command(t, reimager, "write", img, device, "--yes")
	found := regexp.MustCompile(`write /dev/loop\d+: sector (\d+): `).FindStringSubmatch(out)
	if err == nil || found == nil || !strings.Contains(out, "does not boot") {
		t.Fatalf("write: %v\n%s\nwant an error that names a sector", err, out)
	}
	if n, err := strconv.Atoi(found[1]); err != nil || n <= 0 || n >= len(content)/512 {
		t.Errorf("sector %s of %d is named", found[1], len(content)/512)
	}
	head := make([]byte, 512)
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	_, err = f.ReadAt(head, 0)
	must(t, err)
	if head[510] != 0 {
		t.Error("there is a boot sector on a disk with half an image")
	}
}
