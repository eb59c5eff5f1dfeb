package lifeboat

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Where the header of the tests has its berth, on a disk of that size.
const (
	headerBerth = 1 << 20
	headerRoom  = 1 << 20
	headerDisk  = 4 << 20
)

func someHeader() Header {
	return Header{
		Format: 1, RunID: "b3f1c0de", Berth: Berth{Off: headerBerth, Bytes: headerRoom, Where: "the inside of swap partition 3"},
		Sections: []Section{
			{Name: Image, Off: headerBerth + 64*kib, Bytes: 100_000, SHA256: [32]byte{1}},
			{Name: Archive, Off: headerBerth + 164*kib, Bytes: 4096, SHA256: [32]byte{2}},
		},
	}
}

func TestHeader(t *testing.T) {
	want := someHeader()
	block, err := seal(headerMagic, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseHeader(block, headerBerth, headerDisk)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("ParseHeader = %v (-want +got):\n%s", err, diff)
	}
}

// A header has room for as many sections as there are, in the largest of berths.
func TestHeaderHasRoom(t *testing.T) {
	h := someHeader()
	h.RunID = strings.Repeat("x", 64)
	h.Berth = Berth{Off: 1 << 55, Bytes: 1 << 55, Where: strings.Repeat("w", 200)}
	h.Sections = nil
	for i := range 15 {
		h.Sections = append(h.Sections, Section{Name: "section" + string(rune('a'+i)), Off: 1<<55 + 1<<54, Bytes: 1 << 50})
	}
	if _, err := seal(headerMagic, h); err != nil {
		t.Errorf("seal = %v", err)
	}
	h.Berth.Where = strings.Repeat("w", blockBytes)
	if _, err := seal(headerMagic, h); err == nil || !strings.Contains(err.Error(), "expected at most 4044") {
		t.Errorf("seal of too much = %v; want what was expected", err)
	}
}

func TestHeaderRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Header)
		want   string
	}{
		{"format", func(h *Header) { h.Format = 2 }, "format 2, expected 1"},
		{"no run", func(h *Header) { h.RunID = "" }, "expected 1 to 64"},
		{"quoted run", func(h *Header) { h.RunID = "a b" }, "expected letters and digits"},
		{"elsewhere", func(h *Header) { h.Berth.Off += 4096 }, "its berth is at byte 1052672, expected 1048576"},
		{"too small", func(h *Header) { h.Berth.Bytes = 60 * kib }, "expected at least 65536"},
		{"behind the end", func(h *Header) { h.Berth.Bytes = headerDisk }, "within a disk of 4194304"},
		{"overflow", func(h *Header) { h.Berth.Bytes = 1<<63 - 4096 }, "within a disk"},
		{"odd berth", func(h *Header) { h.Berth.Bytes-- }, "whole blocks of 4096"},
		{"in the head", func(h *Header) { h.Sections[0].Off = headerBerth + 4096 }, "section image has the 100000 bytes at 1052672, expected them between 1114112 and 2097152"},
		{"before the berth", func(h *Header) { h.Sections[0].Off = 0 }, "section image"},
		{"unaligned", func(h *Header) { h.Sections[0].Off += 512 }, "whole blocks of 4096"},
		{"overlapping", func(h *Header) { h.Sections[1].Off -= 4096 }, "section archive"},
		{"behind the berth", func(h *Header) { h.Sections[1].Bytes = headerRoom - 64*kib }, "section archive"},
		{"far behind", func(h *Header) { h.Sections[1].Off = 1<<62 + 4096 }, "section archive"},
		{"empty", func(h *Header) { h.Sections[1].Bytes = 0 }, "section archive has 0 bytes"},
		{"negative", func(h *Header) { h.Sections[1].Bytes = -4096 }, "section archive has -4096 bytes"},
		{"twice", func(h *Header) { h.Sections[1].Name = Image }, `section name "image"`},
		{"nameless", func(h *Header) { h.Sections[1].Name = "" }, `section name ""`},
	} {
		h := someHeader()
		tt.change(&h)
		block, err := seal(headerMagic, h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseHeader(block, headerBerth, headerDisk); err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrNoBoat) {
			t.Errorf("%s: ParseHeader = %v; want %q", tt.name, err, tt.want)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	h := someHeader()
	h.Berth.Where = strings.Repeat("far ", 200)
	good, err := seal(headerMagic, h)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimRight(string(good[sealText:]), "\x00")
	for _, tt := range []struct {
		name, want string
		block      []byte
	}{
		{"nothing", "there is none", make([]byte, blockBytes)},
		{"short", "100 bytes, expected 4096", good[:100]},
		{"other kind", `begins with "reimager journal"`, append([]byte(journalMagic), good[magicBytes:]...)},
		{"long text", "expected at most 4044", append(append([]byte(headerMagic), 0xff, 0xff, 0, 0), good[20:]...)},
		{"bit", "SHA-256", append(append([]byte(nil), good[:100]...), append([]byte{good[100] ^ 1}, good[101:]...)...)},
		{"torn", "SHA-256", append(append([]byte(nil), good[:512]...), make([]byte, blockBytes-512)...)},
		{"more behind", "something follows its text", append(append([]byte(nil), good[:blockBytes-1]...), 1)},
		{"unknown field", "unknown field", sealedText(headerMagic, strings.Replace(text, `"format"`, `"formal"`, 1))},
		{"two values", "something follows its JSON", sealedText(headerMagic, text+"{}")},
		{"no JSON", "invalid character", sealedText(headerMagic, "x")},
	} {
		_, err := ParseHeader(tt.block, headerBerth, headerDisk)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ParseHeader = %v; want %q", tt.name, err, tt.want)
		}
		if none := tt.name == "nothing" || tt.name == "other kind"; errors.Is(err, ErrNoBoat) != none {
			t.Errorf("%s: ParseHeader = %v; ErrNoBoat: want %v", tt.name, err, none)
		}
	}
}

// sealedText is a block with any text in it; too long a one is cut.
func sealedText(magic, text string) []byte {
	block, err := seal(magic, json.RawMessage(`0`))
	if err != nil {
		panic(err)
	}
	sealInto(block, []byte(text[:min(len(text), sealTextMax)]))
	return block
}

func FuzzHeader(f *testing.F) {
	good, err := json.Marshal(someHeader())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(good))
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHeader(sealedText(headerMagic, text), headerBerth, headerDisk)
		if err != nil {
			return
		}
		b := &Boat{header: h}
		for _, e := range b.Keep() {
			if e.Off < headerBerth || e.Bytes <= 0 || e.End() > headerBerth+h.Berth.Bytes || e.End() > headerDisk {
				t.Errorf("keeps %d bytes at %d", e.Bytes, e.Off)
			}
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(`{"run_id":"b3f1c0de","sequence":7,"state":"writing","starts":1,"attempts":1}`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRecord(sealedText(journalMagic, text), "b3f1c0de")
		if err == nil && (!r.State.valid() || r.Sequence == 0 || r.RunID != "b3f1c0de") {
			t.Errorf("parseRecord = %+v", r)
		}
	})
}

func FuzzBlock(f *testing.F) {
	good, err := seal(headerMagic, someHeader())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, block []byte) {
		if _, err := ParseHeader(block, headerBerth, headerDisk); err != nil && !strings.HasPrefix(err.Error(), "read header of the lifeboat: ") && !errors.Is(err, ErrNoBoat) {
			t.Errorf("ParseHeader = %v", err)
		}
	})
}
