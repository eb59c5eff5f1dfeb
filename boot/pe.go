package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// From the PE format specification (Microsoft, "PE Format"): a kernel with an EFI
// stub is such a file, and what signs it for Secure Boot is a certificate table.
const (
	peOffset      = 0x3c // of the offset of the signature "PE\0\0"
	peOptional    = 24   // of the optional header, from that signature
	pe32Plus      = 0x20b
	peCountAt     = 108 // of NumberOfRvaAndSizes in the optional header of PE32+
	peDirectories = 112
	peSecurity    = 4 // index of the certificate table; its address is an offset in the file
	peCertHeader  = 8 // WIN_CERTIFICATE: length, revision, type
)

// KernelSigned tells whether a kernel carries a signature for Secure Boot. Whose it
// is, and whether it fits, only the firmware says.
func KernelSigned(r io.ReaderAt) (bool, error) {
	header := make([]byte, peOffset+4)
	if err := readFull(r, header, 0); err != nil {
		return false, err
	}
	if string(header[:2]) != "MZ" {
		return false, nil // a kernel without an EFI stub
	}
	le := binary.LittleEndian
	at := int64(le.Uint32(header[peOffset:]))
	pe := make([]byte, peOptional+peDirectories+8*(peSecurity+1))
	if err := readFull(r, pe, at); err != nil {
		return false, err
	}
	optional := pe[peOptional:]
	if string(pe[:4]) != "PE\x00\x00" || le.Uint16(optional) != pe32Plus {
		return false, fmt.Errorf("read kernel's PE header: no PE32+ at byte %#x", at)
	}
	if le.Uint32(optional[peCountAt:]) <= peSecurity {
		return false, nil
	}
	entry := optional[peDirectories+8*peSecurity:]
	table, size := int64(le.Uint32(entry)), int64(le.Uint32(entry[4:]))
	if table == 0 || size == 0 {
		return false, nil
	}
	certificate := make([]byte, peCertHeader)
	if err := readFull(r, certificate, table); err != nil {
		return false, err
	}
	if n := int64(le.Uint32(certificate)); n <= peCertHeader || n > size {
		return false, fmt.Errorf("read kernel's certificate table: a certificate of %d bytes in %d", n, size)
	}
	return true, nil
}

func readFull(r io.ReaderAt, b []byte, off int64) error {
	if n, err := r.ReadAt(b, off); n < len(b) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read kernel at byte %d: %w", off, err)
	}
	return nil
}
