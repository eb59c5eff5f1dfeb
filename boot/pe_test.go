package boot

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// peKernel is a PE32+ header at 0x80 with a certificate table of so many bytes behind
// it, of which a certificate claims length.
func peKernel(table, size, length uint32) []byte {
	b := make([]byte, 0x200)
	copy(b, "MZ")
	le := binary.LittleEndian
	le.PutUint32(b[peOffset:], 0x80)
	copy(b[0x80:], "PE\x00\x00")
	optional := b[0x80+peOptional:]
	le.PutUint16(optional, pe32Plus)
	le.PutUint32(optional[peCountAt:], 6)
	entry := optional[peDirectories+8*peSecurity:]
	le.PutUint32(entry, table)
	le.PutUint32(entry[4:], size)
	if table != 0 && table < 0x200-peCertHeader {
		le.PutUint32(b[table:], length)
	}
	return b
}

func TestKernelSigned(t *testing.T) {
	few := peKernel(0x180, 0x40, 0x40)
	binary.LittleEndian.PutUint32(few[0x80+peOptional+peCountAt:], 4)
	pe32 := peKernel(0x180, 0x40, 0x40)
	binary.LittleEndian.PutUint16(pe32[0x80+peOptional:], 0x10b)
	for _, tt := range []struct {
		name   string
		kernel []byte
		want   bool
		err    string
	}{
		{"signed", peKernel(0x180, 0x40, 0x40), true, ""},
		{"not signed", peKernel(0, 0, 0), false, ""},
		{"no EFI stub", bytes.Repeat([]byte{0xea}, 0x200), false, ""},
		{"no such directory", few, false, ""},
		{"32 bits", pe32, false, "no PE32+"},
		{"table behind the end", peKernel(0x1000, 0x40, 0), false, "unexpected EOF"},
		{"empty certificate", peKernel(0x180, 0x40, 8), false, "certificate of 8 bytes"},
		{"certificate longer than its table", peKernel(0x180, 0x40, 0x41), false, "certificate of 65 bytes in 64"},
		{"cut short", []byte("MZ"), false, "unexpected EOF"},
	} {
		got, err := KernelSigned(bytes.NewReader(tt.kernel))
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: KernelSigned = %t, %v; want %t, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
}

func FuzzKernelSigned(f *testing.F) {
	f.Add(peKernel(0x180, 0x40, 0x40))
	f.Add(peKernel(0xfffffff0, 0xffffffff, 0))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, kernel []byte) {
		if signed, err := KernelSigned(bytes.NewReader(kernel)); signed && (err != nil || len(kernel) < peOptional+peDirectories) {
			t.Errorf("KernelSigned = true, %v of %d bytes", err, len(kernel))
		}
	})
}
