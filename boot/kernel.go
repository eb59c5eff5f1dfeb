package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Offsets in the real-mode header of a Linux x86 kernel, from the kernel's
// Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header").
const (
	kernelSetupSects = 0x1f1
	kernelBootFlag   = 0x1fe
	kernelMagic      = 0x202
	kernelProtocol   = 0x206
	kernelVersion    = 0x20e
	kernelLoadFlags  = 0x211
	kernelHeaderEnd  = 0x212

	kernelLoadedHigh = 1 << 0
	// kernelVersionMax bounds the text: release, builder and date take about
	// 150 bytes in distributions' kernels.
	kernelVersionMax = 512
)

// IsKernel tells whether r holds a Linux bzImage. Only an error of reading is
// an error; something shorter than the header is just no kernel.
func IsKernel(r io.ReaderAt) (bool, error) {
	_, ok, err := readKernelHeader(r)
	return ok, err
}

// KernelVersion returns the release of a Linux bzImage, as `uname -r` would
// print it and as its directory under /lib/modules is named.
func KernelVersion(r io.ReaderAt) (string, error) {
	header, ok, err := readKernelHeader(r)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", errors.New("read kernel version: not a Linux bzImage")
	}
	pointer := int64(binary.LittleEndian.Uint16(header[kernelVersion:]))
	setup := int64(header[kernelSetupSects])
	if setup == 0 {
		setup = 4 // boot.rst: 0 means 4, for backwards compatibility
	}
	if pointer == 0 || pointer >= setup*0x200 {
		return "", fmt.Errorf("read kernel version: pointer %#x is outside the setup code", pointer)
	}
	text := make([]byte, min(kernelVersionMax, setup*0x200-pointer))
	n, err := r.ReadAt(text, pointer+0x200)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read kernel version: %w", err)
	}
	version, _, ended := strings.Cut(string(text[:n]), "\x00")
	if !ended {
		return "", errors.New("read kernel version: text has no end")
	}
	release, _, _ := strings.Cut(version, " ")
	if err := checkRelease(release); err != nil {
		return "", fmt.Errorf("read kernel version: %w", err)
	}
	return release, nil
}

// checkRelease keeps a damaged header from becoming part of a path.
func checkRelease(release string) error {
	if release == "" || release == "." || release == ".." {
		return fmt.Errorf("release %q names nothing", release)
	}
	for _, c := range []byte(release) {
		if c <= ' ' || c > '~' || c == '/' {
			return fmt.Errorf("release %q has byte %#02x", release, c)
		}
	}
	return nil
}

func readKernelHeader(r io.ReaderAt) (header []byte, ok bool, err error) {
	header = make([]byte, kernelHeaderEnd)
	if n, err := r.ReadAt(header, 0); n < len(header) {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("read kernel header: %w", err)
	}
	le := binary.LittleEndian
	ok = le.Uint16(header[kernelBootFlag:]) == 0xaa55 &&
		string(header[kernelMagic:kernelMagic+4]) == "HdrS" &&
		le.Uint16(header[kernelProtocol:]) >= 0x0200 &&
		header[kernelLoadFlags]&kernelLoadedHigh != 0
	return header, ok, nil
}
