package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// A file cut anywhere is an error that says where, and what came before is right.
func TestEveryTruncation(t *testing.T) {
	for _, f := range smallFixtures(t) {
		for n := range len(f.file) {
			for _, src := range []io.Reader{bytes.NewReader(f.file[:n]), iotest.DataErrReader(bytes.NewReader(f.file[:n]))} {
				got, _, err := decodeBy(t, src, 2, n%2 == 0)
				want := fmt.Sprintf("decode %s at byte %d: ", f.format, n)
				switch {
				case slices.Contains(f.boundaries, n):
					if err != nil {
						t.Errorf("%s cut between streams at %d: %v; want nil", f.name, n, err)
					}
				case n < 6: // not enough to be recognised, with some
					if err == nil {
						t.Errorf("%s cut at %d: no error", f.name, n)
					}
				case err == nil || !strings.Contains(err.Error(), want) && !inPadding(f, n, err):
					t.Errorf("%s cut at %d: %v; want %q", f.name, n, err, want)
				}
				if !bytes.HasPrefix(f.content, got) {
					t.Errorf("%s cut at %d: other content", f.name, n)
				}
			}
		}
	}
}

// inPadding tells whether n cuts the padding of xz, where zeros that aren't four are
// garbage from the first on.
func inPadding(f fixture, n int, err error) bool {
	for _, at := range f.boundaries {
		if f.format == XZ && at < n && n < at+4 && f.file[n-1] == 0 {
			return strings.Contains(err.Error(), fmt.Sprintf("at byte %d: trailing garbage", at))
		}
	}
	return false
}

// A flipped bit is found, or it doesn't matter.
func TestEveryBitFlip(t *testing.T) {
	for _, f := range smallFixtures(t) {
		flipped := bytes.Clone(f.file)
		same := 0
		for bit := range len(flipped) * 8 {
			flipped[bit/8] ^= 1 << (bit % 8)
			got, _, err := decodeBy(t, bytes.NewReader(flipped), 1, bit%2 == 0)
			switch {
			case err == nil && !bytes.Equal(got, f.content):
				t.Errorf("%s, bit %d: other content and no error", f.name, bit)
			case err == nil:
				same++
			case !strings.Contains(err.Error(), " byte ") && !strings.Contains(err.Error(), "detect format"):
				t.Errorf("%s, bit %d: %v names no place", f.name, bit, err)
			}
			flipped[bit/8] ^= 1 << (bit % 8)
		}
		t.Logf("%s: %d of %d flips don't matter", f.name, same, len(flipped)*8)
	}
}

func TestTrailingGarbage(t *testing.T) {
	for _, f := range smallFixtures(t) {
		for _, garbage := range []string{"\x00", "\x00\x00\x00", strings.Repeat("\x00", 511), "x", "garbage", "BZ", "\x1f\x8c", strings.Repeat("PK\x03\x04", 300)} {
			_, _, err := decodeBy(t, strings.NewReader(string(f.file)+garbage), 2, true)
			// xz pads with zeros in fours, and "BZ" may be the beginning of more.
			at := len(f.file)
			for rest := garbage; f.format == XZ && strings.HasPrefix(rest, "\x00\x00\x00\x00"); rest = rest[4:] {
				at += 4
			}
			want := fmt.Sprintf("decode %s at byte %d: trailing garbage", f.format, at)
			if f.format == Bzip2 && garbage == "BZ" {
				want = fmt.Sprintf("decode bzip2 at byte %d: file is truncated", at+2)
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s with %.5q: %v; want %q", f.name, garbage, err, want)
			}
		}
	}
}

// No disk is empty.
func TestEmptyStreams(t *testing.T) {
	for _, tt := range []struct {
		format Format
		file   []byte
	}{
		{Bzip2, tool(t, nil, "bzip2")},
		{Zstd, tool(t, nil, "zstd", "-q")},
		{Gzip, join(tool(t, nil, "gzip"), tool(t, nil, "gzip"))},
		{XZ, tool(t, nil, "xz")},
	} {
		for _, next := range []bool{false, true} {
			_, _, err := decodeBy(t, bytes.NewReader(tt.file), 1, next)
			want := fmt.Sprintf("decode %s at byte %d: ", tt.format, len(tt.file))
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "decodes to nothing") {
				t.Errorf("%s of nothing: %v; want %q", tt.format, err, want)
			}
		}
	}
	if _, _, err := decodeBy(t, strings.NewReader(""), 1, true); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("no byte: %v; want an error", err)
	}
}

// change returns a copy of b with bits of a byte flipped; places from the end are
// negative.
func change(b []byte, at int, bits byte) []byte {
	b = bytes.Clone(b)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= bits
	return b
}

// sealed is change with the CRC32 of b[from:to], which follows it or, for sum >= 0,
// is there, made right again.
func sealed(b []byte, at int, bits byte, from, to, sum int) []byte {
	b = change(b, at, bits)
	binary.LittleEndian.PutUint32(b[sum:], crc32.ChecksumIEEE(b[from:to]))
	return b
}

func TestVerdicts(t *testing.T) {
	b := diskLike(1024)
	good := tool(t, b[:512], "gzip")
	g := tool(t, b, "gzip")
	n := len(good)
	x := tool(t, b, "xz", "-0", "--check=crc64")
	shaX := tool(t, b, "xz", "-0", "--check=sha256")
	sized := tool(t, b, "xz", "-0", "-T2", "--block-size=1MiB")
	// From its end: footer 12, CRC32 4 and size of the index, check.
	end := len(x)
	index := end - 12 - 4*(1+int(binary.LittleEndian.Uint32(x[end-8:])))
	sizedHeader := (int(sized[12]) + 1) * 4
	rawDisk := diskLike(2048)
	for _, tt := range []struct {
		name string
		file []byte
		want string
	}{
		{"gzip CRC", change(join(good, g), -8, 1), fmt.Sprintf("decode gzip at byte %d: checksum or length mismatch", n+len(g)-8)},
		{"gzip length", change(join(good, g), -1, 1), fmt.Sprintf("decode gzip at byte %d: checksum or length mismatch", n+len(g)-8)},
		{"gzip CRC of the first member", change(join(good, g), n-8, 1), fmt.Sprintf("decode gzip at byte %d: checksum or length mismatch", n-8)},
		{"gzip method", change(join(good, g), n+2, 1), fmt.Sprintf("decode gzip at byte %d: unknown compression method 9", n+2)},
		{"gzip reserved flag", change(join(good, g), n+3, 0x20), fmt.Sprintf("decode gzip at byte %d: reserved flag", n+3)},
		{"gzip header CRC", join(good, []byte("\x1f\x8b\x08\x02\x00\x00\x00\x00\x00\x03\xff\xff"), g[10:]), fmt.Sprintf("decode gzip near byte %d: gzip: invalid header", n+12)},
		{"gzip data", change(join(good, g), n+10, 6), "decode gzip near byte "},
		{"xz header CRC", change(x, 8, 1), "decode xz at byte 8: stream header: checksum mismatch"},
		{"xz kind of check", sealed(x, 7, 4^5, 6, 8, 8), "decode xz at byte 6: unknown kind of check"},
		{"xz reserved flag of the stream", sealed(x, 6, 1, 6, 8, 8), "decode xz at byte 6: unknown kind of check"},
		{"xz block header CRC", change(x, 20, 1), "decode xz at byte 20: block header: checksum mismatch"},
		{"xz reserved flag of the block", sealed(x, 13, 4, 12, 20, 20), "decode xz at byte 12: block header: reserved flag"},
		{"xz filter", sealed(x, 14, 0x20, 12, 20, 20), "decode xz at byte 12: block header: filter 0x1;"},
		{"xz padding of the header", sealed(x, 19, 1, 12, 20, 20), "decode xz at byte 12: block header: padding"},
		{"xz dictionary of 4 GiB", sealed(x, 16, x[16]^40, 12, 20, 20), "decode xz at byte 12: dictionary of 4294967295 bytes"},
		{"xz dictionary of more", sealed(x, 16, x[16]^41, 12, 20, 20), "decode xz at byte 12: block header: size of dictionary 41"},
		{"xz sizes of the block", sealed(sized, 14, 1, 12, 12+sizedHeader-4, 12+sizedHeader-4), "decode xz at byte 12: block is not as long"},
		{"xz CRC64", change(x, index-1, 1), fmt.Sprintf("decode xz at byte %d: block: checksum mismatch", index-8)},
		{"xz SHA-256", change(shaX, len(shaX)-(end-index)-1, 1), fmt.Sprintf("decode xz at byte %d: block: checksum mismatch", len(shaX)-(end-index)-32)},
		{"xz number of blocks", change(x, index+1, 3), fmt.Sprintf("decode xz at byte %d: index has 2 blocks, the stream 1", index)},
		{"xz index", sealed(x, index+2, 1, index, end-16, end-16), fmt.Sprintf("decode xz at byte %d: index has other sizes", index)},
		{"xz index CRC", change(x, end-16, 1), fmt.Sprintf("decode xz at byte %d: index: checksum mismatch", end-16)},
		{"xz footer CRC", change(x, end-12, 1), fmt.Sprintf("decode xz at byte %d: stream footer: checksum mismatch", end-12)},
		{"xz size of the index", sealed(x, end-8, 1, end-8, end-2, end-12), fmt.Sprintf("decode xz at byte %d: stream footer has another size", end-8)},
		{"xz flags of the footer", sealed(x, end-3, 5, end-8, end-2, end-12), fmt.Sprintf("decode xz at byte %d: stream footer has other flags", end-4)},
		{"xz footer", change(x, end-1, 1), fmt.Sprintf("decode xz at byte %d: stream footer is missing", end-2)},
		{"xz dictionary", tool(t, b, "xz", "--lzma2=preset=0,dict=65MiB"), "decode xz at byte 12: dictionary of 100663296 bytes, at most 67108864"},
		{"xz filters", tool(t, b, "xz", "--x86", "--lzma2=preset=0"), "decode xz at byte 12: block header: several filters"},
		{"zstd window", tool(t, b, "zstd", "-q", "--long=27"), "decode zstd at byte 5: window is too large"},
		{"raw", rawDisk[:2047], "decode raw at byte 2047: image is truncated"},
		{"raw with garbage", join(rawDisk, []byte("x")), "decode raw at byte 2049: image is truncated, or has trailing garbage"},
	} {
		_, _, err := decodeBy(t, bytes.NewReader(tt.file), 1, true)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
}

// A source's error is never taken for the end of the image, whatever it is.
func TestSourceErrors(t *testing.T) {
	mine := errors.New("mine")
	for _, f := range append(smallFixtures(t), parted("raw", Raw, nil, diskLike(2048))) {
		for _, want := range []error{mine, io.ErrUnexpectedEOF} {
			for n := 512; n <= len(f.file); n += max(1, (len(f.file)-512)/9) {
				for _, wrap := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader} {
					src := wrap(io.MultiReader(bytes.NewReader(f.file[:n]), iotest.ErrReader(want)))
					if _, _, err := decodeBy(t, src, 2, n%2 == 0); !errors.Is(err, want) {
						t.Errorf("%s, source fails at %d with %v: %v", f.name, n, want, err)
					}
				}
			}
		}
	}
}

// Decoding as it is read: a byte at a time changes nothing.
func TestReadersOfAllKinds(t *testing.T) {
	for _, f := range smallFixtures(t) {
		for _, wrap := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader} {
			got, _, err := decodeBy(t, wrap(bytes.NewReader(f.file)), 2, true)
			if err != nil || !bytes.Equal(got, f.content) {
				t.Errorf("%s: %d bytes, %v; want %d", f.name, len(got), err, len(f.content))
			}
		}
	}
}
