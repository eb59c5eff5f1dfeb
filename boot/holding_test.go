package boot

import (
	"bytes"
	"strings"
	"testing"
)

// sector0 is a first sector whose bytes all differ from the holding code's.
func sector0(size int) []byte {
	sector := bytes.Repeat([]byte{0xa7}, size)
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

func TestHoldingCode(t *testing.T) {
	code, err := HoldingCode()
	if err != nil {
		t.Fatal(err)
	}
	if len(code) != 440 {
		t.Errorf("%d bytes; want 440", len(code))
	}
	if !bytes.Contains(code, []byte(holdingMessage+"\x00")) {
		t.Errorf("no message in %q", code)
	}
	for line := range strings.SplitSeq(holdingMessage, "\r\n") {
		if len(line) > 80 {
			t.Errorf("line %q has %d columns; the screen has 80", line, len(line))
		}
	}
}

func TestHoldingSector(t *testing.T) {
	code, err := HoldingCode()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{512, 1024, 2048, 4096} {
		image := sector0(size)
		got, err := HoldingSector(image)
		if err != nil {
			t.Fatal(err)
		}
		if want := append(bytes.Clone(code), image[440:]...); !bytes.Equal(got, want) {
			t.Errorf("sector of %d bytes: %x; want %x", size, got, want)
		}
		if !bytes.Equal(image, sector0(size)) {
			t.Errorf("sector of %d bytes: the image's own was changed", size)
		}
	}
	unsigned := sector0(512)
	unsigned[511] = 0
	for _, tc := range []struct {
		name   string
		sector []byte
		want   string
	}{
		{"empty", nil, "0 bytes"},
		{"short", sector0(512)[:511], "511 bytes"},
		{"odd", sector0(1000), "1000 bytes"},
		{"long", sector0(8192), "8192 bytes"},
		{"no signature", unsigned, "55 AA"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := HoldingSector(tc.sector)
			checkError(t, err, tc.want)
		})
	}
}

func TestAssembleErrors(t *testing.T) {
	far := instruction{code: make([]byte, 200)}
	for _, tc := range []struct {
		name    string
		listing []instruction
		want    string
	}{
		{"unknown label", []instruction{{mnemonic: "jmp x", code: []byte{0xeb}, rel8: "x"}}, "jmp x: unknown label"},
		{"too far ahead", []instruction{{mnemonic: "jmp x", code: []byte{0xeb}, rel8: "x"}, far, {label: "x"}}, "200 bytes away"},
		{"too far back", []instruction{{label: "x"}, far, {mnemonic: "jmp x", code: []byte{0xeb}, rel8: "x"}}, "-202 bytes away"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := assemble(tc.listing, 0)
			checkError(t, err, tc.want)
		})
	}
}

// A holding sector for UEFI has code, disk signature and 55 AA, and no table.
func TestClearTable(t *testing.T) {
	for _, size := range []int{512, 4096} {
		got := sector0(size)
		ClearTable(got)
		want := sector0(size)
		clear(want[446:510])
		if !bytes.Equal(got, want) {
			t.Errorf("sector of %d bytes: %x; want %x", size, got, want)
		}
	}
}
