package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"reimager/disk"
	"reimager/image"
)

const esp = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"

// system is a GPT disk with an ESP in which every byte of the partition says which
// system it is.
func system(t *testing.T, bytesOf int, fill byte, script string) (content []byte, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, bytesOf), 0o600); err != nil {
		t.Fatal(err)
	}
	sfdisk(t, path, script)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := mib; i < 2*mib; i++ {
		content[i] = fill
	}
	copy(content[:440], bytes.Repeat([]byte{fill}, 440))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return content, path
}

const gptScript = "label: gpt\nstart=1MiB, size=1MiB, type=" + esp + "\n"

func sfdisk(t *testing.T, path, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command("sfdisk", append(args, path)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	return string(out)
}

// bootable tells what the laxest firmware would find on a disk: a GPT by its header or
// its backup, with or without a protective MBR, or an ESP in the MBR.
func bootable(t *testing.T, b []byte) []string {
	t.Helper()
	var found []string
	protective := bytes.Clone(b)
	copy(protective[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	protective[510], protective[511] = 0x55, 0xaa
	espIn := func(what string, b []byte) {
		table, err := disk.ReadTable(bytes.NewReader(b), sector)
		if err != nil {
			return
		}
		for _, e := range table.Entries {
			if e.Type == "ef" || strings.EqualFold(e.Type, esp) {
				found = append(found, what)
			}
		}
	}
	espIn("MBR", b)
	espIn("header", protective)
	// The backup is a header if it is read as one.
	copy(protective[sector:2*sector], b[len(b)-sector:])
	espIn("backup", protective)
	return found
}

// cut is the end of the power.
var errCut = errors.New("cut")

// A power cut between any two writes leaves the old system whole, the new one whole, or
// nothing that firmware takes for a system.
func TestCutsLeaveNothingHalfBootable(t *testing.T) {
	const size = 4 * mib
	newImage, _ := system(t, size, 'N', gptScript)
	m := mapOf(newImage, image.Extent{Off: 0, Bytes: mib}, image.Extent{Off: mib, Bytes: mib}, image.Extent{Off: 2 * mib, Bytes: 2 * mib})
	ended := false
	for cutAt := 0; !ended; cutAt++ {
		old, path := system(t, size, 'O', gptScript)
		dev, err := disk.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		writes := 0
		put := func(p disk.Piece) error {
			if writes++; writes > cutAt {
				return errCut
			}
			return Put(dev, p)
		}
		err = wholeUntil(t, dev, put, newImage, m, &writes, cutAt)
		if err == nil {
			ended = true
		}
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		whole := ""
		switch {
		case bytes.Equal(got[mib:3*mib], old[mib:3*mib]) && bytes.Equal(got[2*sector:34*sector], old[2*sector:34*sector]):
			whole = "old"
		case bytes.Equal(got[2*sector:len(got)-sector], newImage[2*sector:len(got)-sector]):
			whole = "new"
		}
		if seen := bootable(t, got); len(seen) > 0 && whole == "" {
			t.Errorf("cut after %d writes: a half-made system is found by %q", cutAt, seen)
		}
		if ended {
			if !bytes.Equal(got, newImage) {
				t.Error("without a cut the disk is not the image")
			}
			if cutAt < 9 {
				t.Errorf("only %d writes were cut", cutAt)
			}
		}
	}
}

// wholeUntil does what a run does until its writes are cut.
func wholeUntil(t *testing.T, dev *disk.Device, put func(disk.Piece) error, content []byte, m *image.Map, writes *int, cutAt int) error {
	t.Helper()
	headers := disk.GPTHeaders(dev.Bytes(), sector)
	if _, err := castOff(dev, castOffOrder(make([]byte, sector), headers), put); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done, err := Write(ctx, Job{Device: dev, Source: &source{b: content}, Map: m, Held: headers, Written: func() {
		if *writes++; *writes >= cutAt {
			cancel()
		}
	}})
	if err != nil {
		return err
	}
	if err := ReadBack(t.Context(), dev, m, done.Held, nil); err != nil {
		t.Fatal(err)
	}
	land, err := disk.LandGPT(bytes.NewReader(content), At(done.Held, headers[0]), dev.Bytes(), sector)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(land, disk.Piece{Off: 0, Data: At(done.Held, 0)}) {
		if err := put(p); err != nil {
			return err
		}
	}
	return nil
}

// A casting off that fails is undone if its last write did nothing, and only then.
func TestCastOffIsSettledByReadingBack(t *testing.T) {
	for failing := range 3 {
		for _, wrote := range []bool{false, true} {
			t.Run(fmt.Sprint(failing, wrote), func(t *testing.T) {
				old, path := system(t, 4*mib, 'O', gptScript)
				dev, err := disk.OpenFile(path)
				if err != nil {
					t.Fatal(err)
				}
				defer dev.Close()
				n := 0
				undone, err := castOff(dev, castOffOrder(bytes.Repeat([]byte{'H'}, sector), disk.GPTHeaders(4*mib, sector)), func(p disk.Piece) error {
					if n++; n-1 == failing {
						if wrote {
							if err := Put(dev, p); err != nil {
								t.Fatal(err)
							}
						}
						return errCut
					}
					return Put(dev, p)
				})
				if !errors.Is(err, errCut) || undone == wrote {
					t.Errorf("castOff = undone %v, %v; want %v, cut", undone, err, !wrote)
				}
				got, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if same := bytes.Equal(got, old); same != undone {
					t.Errorf("the disk is as it was: %v, but undone is %v", same, undone)
				}
			})
		}
	}
}

// The order of casting off, and what is left alone where there is no GPT.
func TestCastOffOrder(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		headers      bool
		want         []int64
	}{
		{"GPT", gptScript, true, []int64{4*mib - sector, 0, sector}},
		{"GPT becomes MBR on a BIOS", gptScript, false, []int64{0}},
		{"MBR", "label: dos\nstart=1MiB, size=1MiB, type=ef\n", true, []int64{0}},
	} {
		_, path := system(t, 4*mib, 'O', tt.script)
		dev, err := disk.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var headers []int64
		if tt.headers {
			headers = disk.GPTHeaders(dev.Bytes(), sector)
		}
		var got []int64
		_, err = castOff(dev, castOffOrder(make([]byte, sector), headers), func(p disk.Piece) error { got = append(got, p.Off); return Put(dev, p) })
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: castOff wrote %d, %v; want %d", tt.name, got, err, tt.want)
		}
		if tt.headers {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if seen := bootable(t, content); len(seen) > 0 {
				t.Errorf("%s: after casting off firmware finds an ESP by %q", tt.name, seen)
			}
		}
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// reimager write: an image of either table comes whole onto a disk of either table that
// is as large or larger, and one that fails leaves nothing to boot.
func TestWriteWholeHoldsBackGPT(t *testing.T) {
	for _, script := range []string{gptScript, "label: dos\nstart=1MiB, size=1MiB, type=ef\n"} {
		content, _ := system(t, 4*mib, 'N', script)
		for _, size := range []int{4 * mib, 6 * mib} {
			for _, mapped := range []bool{false, true} {
				for _, fail := range []bool{false, true} {
					_, path := system(t, size, 'O', gptScript)
					dev, err := disk.OpenFile(path)
					if err != nil {
						t.Fatal(err)
					}
					job := Job{Device: dev, Source: &source{b: content}}
					if mapped {
						job.Map = mapOf(content, image.Extent{Off: 0, Bytes: 2 * mib}, image.Extent{Off: 2 * mib, Bytes: 2 * mib})
					}
					name := fmt.Sprintf("%.9s on %d MiB, mapped %v, failing %v", script[7:], size/mib, mapped, fail)
					mine := errors.New("mine")
					_, err = WriteWhole(t.Context(), job, func(done *Result) error {
						half, err := os.ReadFile(path)
						if err != nil {
							t.Fatal(err)
						}
						if seen := bootable(t, half); len(seen) > 0 {
							t.Errorf("%s: before it is compared firmware finds an ESP by %q", name, seen)
						}
						if fail {
							return mine
						}
						return ReadBack(t.Context(), dev, done.Map, done.Held, nil)
					})
					if fail != errors.Is(err, mine) || !fail && err != nil {
						t.Errorf("%s: WriteWhole = %v", name, err)
					}
					if err := dev.Close(); err != nil {
						t.Fatal(err)
					}
					got, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					if !fail && !bytes.Equal(got[:4*mib], content) {
						t.Errorf("%s: the disk does not begin with the image", name)
					}
					if seen := bootable(t, got); (len(seen) > 0) == fail {
						t.Errorf("%s: at the end firmware finds an ESP by %q", name, seen)
					}
				}
			}
		}
	}
}
