package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// kernelImage makes a bzImage's setup code with this version text.
func kernelImage(change func(image []byte), version string) []byte {
	const setupSects, pointer = 4, 0x300
	image := make([]byte, (setupSects+1)*0x200)
	le := binary.LittleEndian
	image[kernelSetupSects] = setupSects
	le.PutUint16(image[kernelBootFlag:], 0xaa55)
	copy(image[kernelMagic:], "HdrS")
	le.PutUint16(image[kernelProtocol:], 0x020f)
	le.PutUint16(image[kernelVersion:], pointer)
	image[kernelLoadFlags] = kernelLoadedHigh
	copy(image[pointer+0x200:], version+"\x00")
	if change != nil {
		change(image)
	}
	return image
}

func TestKernelVersion(t *testing.T) {
	const debian = "6.1.0-56-amd64 (debian-kernel@lists.debian.org) #1 SMP PREEMPT_DYNAMIC Debian"
	le := binary.LittleEndian
	for _, tc := range []struct {
		name       string
		image      []byte
		wantKernel bool
		want       string
		wantErr    string
	}{
		{"debian", kernelImage(nil, debian), true, "6.1.0-56-amd64", ""},
		{"release only", kernelImage(nil, "6.12.1"), true, "6.12.1", ""},
		{"setup_sects 0 means 4", kernelImage(func(b []byte) { b[kernelSetupSects] = 0 }, debian), true, "6.1.0-56-amd64", ""},
		{"pointer behind setup", kernelImage(func(b []byte) { le.PutUint16(b[kernelVersion:], 0x800) }, debian), true, "", "outside the setup code"},
		{"no pointer", kernelImage(func(b []byte) { le.PutUint16(b[kernelVersion:], 0) }, debian), true, "", "outside the setup code"},
		{"text cut off", kernelImage(nil, debian)[:0x510], true, "", "no end"},
		{"text without end", kernelImage(nil, strings.Repeat("x", 600)), true, "", "no end"},
		{"empty text", kernelImage(nil, ""), true, "", "names nothing"},
		{"path in text", kernelImage(nil, "../../etc"), true, "", "0x2f"},
		{"zImage", kernelImage(func(b []byte) { b[kernelLoadFlags] = 0 }, debian), false, "", "not a Linux bzImage"},
		{"no HdrS", kernelImage(func(b []byte) { b[kernelMagic] = 'h' }, debian), false, "", "not a Linux bzImage"},
		{"protocol 1", kernelImage(func(b []byte) { b[kernelProtocol+1] = 1 }, debian), false, "", "not a Linux bzImage"},
		{"short", kernelImage(nil, debian)[:0x211], false, "", "not a Linux bzImage"},
		{"empty", nil, false, "", "not a Linux bzImage"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			is, err := IsKernel(bytes.NewReader(tc.image))
			if is != tc.wantKernel || err != nil {
				t.Errorf("IsKernel = %v, %v; want %v", is, err, tc.wantKernel)
			}
			got, err := KernelVersion(bytes.NewReader(tc.image))
			checkError(t, err, tc.wantErr)
			if got != tc.want {
				t.Errorf("KernelVersion = %q; want %q", got, tc.want)
			}
		})
	}
}

func TestIsKernelReadError(t *testing.T) {
	broken := errors.New("bad sector")
	r := io.NewSectionReader(readerAt{iotest.ErrReader(broken)}, 0, 1<<20)
	if _, err := IsKernel(r); !errors.Is(err, broken) {
		t.Errorf("IsKernel error = %v; want %v", err, broken)
	}
	if _, err := KernelVersion(r); !errors.Is(err, broken) {
		t.Errorf("KernelVersion error = %v; want %v", err, broken)
	}
}

type readerAt struct{ io.Reader }

func (r readerAt) ReadAt(p []byte, _ int64) (int, error) { return r.Read(p) }

func FuzzKernelVersion(f *testing.F) {
	f.Add(kernelImage(nil, "6.1.0 x"))
	f.Add(kernelImage(func(b []byte) { b[kernelVersion+1] = 0xff }, "6.1.0"))
	f.Fuzz(func(t *testing.T, image []byte) {
		release, err := KernelVersion(bytes.NewReader(image))
		if err != nil {
			return
		}
		if release == "" || strings.ContainsAny(release, "/ \x00\n") {
			t.Fatalf("KernelVersion = %q", release)
		}
		if is, err := IsKernel(bytes.NewReader(image)); !is || err != nil {
			t.Fatalf("IsKernel = %v, %v for release %q", is, err, release)
		}
	})
}
