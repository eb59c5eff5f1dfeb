package image

import (
	"bytes"
	"crypto/sha256"
	"os"
	"strings"
	"testing"
)

// block returns the first code block of a language in docs/formats.md.
func block(t *testing.T, language string) []byte {
	t.Helper()
	text, err := os.ReadFile("../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "\n```"+language+"\n")
	code, _, ended := strings.Cut(after, "```\n")
	if !found || !ended {
		t.Fatalf("docs/formats.md has no block of %s", language)
	}
	return []byte(code)
}

// The release in docs/formats.md is one: signature, manifest and map belong together,
// and are what this code would write.
func TestDocumentedRelease(t *testing.T) {
	manifest, bmap := block(t, "json"), block(t, "xml")
	key, err := ParseKey("docs", block(t, "minisign"))
	if err != nil {
		t.Fatal(err)
	}
	if by, err := verifyText([]Key{key}, manifest, block(t, "minisig")); err != nil || by.ID() != key.ID() {
		t.Errorf("signature: %v, %v", by, err)
	}
	m, err := ParseManifest(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.Encode(); err != nil || !bytes.Equal(again, manifest) {
		t.Errorf("the manifest is written otherwise now, %v:\n%s", err, again)
	}
	if m.Map.SHA256 != sha256.Sum256(bmap) || m.Map.Bytes != int64(len(bmap)) {
		t.Error("the map is not the one in the manifest")
	}
	blocks, err := ParseMap(bmap)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := EncodeMap(blocks); err != nil || !bytes.Equal(again, bmap) {
		t.Errorf("the map is written otherwise now, %v:\n%s", err, again)
	}
	if blocks.MappedBytes() != m.Image.MappedBytes || blocks.Bytes != m.Image.RawBytes {
		t.Errorf("the map has %d of %d bytes, the manifest says %d of %d", blocks.MappedBytes(), blocks.Bytes, m.Image.MappedBytes, m.Image.RawBytes)
	}
}

func TestParseManifestRefuses(t *testing.T) {
	good := string(block(t, "json"))
	for _, tt := range []struct{ name, old, new, want string }{
		{"format", `"format": 1,`, `"format": 2,`, "expected 1"},
		{"path", `"file": "kernel"`, `"file": "../kernel"`, "expected the name of a file in the release"},
		{"absolute", `"file": "initrd"`, `"file": "/initrd"`, "expected the name of a file in the release"},
		{"same file", `"file": "kernel"`, `"file": "image.zst"`, "another file of the release"},
		{"itself", `"file": "kernel"`, `"file": "manifest.json"`, "another file of the release"},
		{"empty", `"bytes": 1685`, `"bytes": 0`, "expected more"},
		{"digest", `"sha256": "f3b6`, `"sha256": "f3b`, "expected 64"},
		{"no version", `"version": "13.1"`, `"version": ""`, "expected both"},
		{"sectors", `"sector_size": 512`, `"sector_size": 520`, "expected 512 or 4096"},
		{"raw size", `"raw_bytes": 16777216`, `"raw_bytes": 16777217`, "whole number of sectors"},
		{"small disk", `"min_bytes": 16777216`, `"min_bytes": 16777215`, "at least the image's"},
		{"partition outside", `"start": 5242880`, `"start": 6291457`, "partition 2 of 10485760 bytes at 6291457 is not on a disk of 16777216"},
		{"type", `"counter": 42`, `"counter": "42"`, "counter"},
		{"garbage", "\n}\n", "\n}\n{}", "something follows"},
		{"cut", "\n}\n", "", "unexpected EOF"},
	} {
		text := strings.Replace(good, tt.old, tt.new, 1)
		if text == good {
			t.Fatalf("%s: nothing was changed", tt.name)
		}
		if _, err := ParseManifest([]byte(text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ParseManifest = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
	if _, err := ParseManifest([]byte(strings.Replace(good, `"counter"`, `"news": [1], "counter"`, 1))); err != nil {
		t.Errorf("an unknown key: %v", err)
	}
}

func TestManifestFits(t *testing.T) {
	m, err := ParseManifest(block(t, "json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"same size", m.CheckDisk("sda", 16<<20, 512), ""},
		{"a sector less", m.CheckDisk("sda", 16<<20-512, 512), "sda has 16776704 bytes, release kiosk 13.1 needs 16777216"},
		{"4Kn", m.CheckDisk("sda", 1<<40, 4096), "sectors of 4096 bytes, release kiosk 13.1 is for sectors of 512"},
		{"any machine", m.CheckCompatible(nil), ""},
		{"one of two", m.CheckCompatible([]string{"till", "kiosk-g3"}), ""},
		{"another", m.CheckCompatible([]string{"kiosk-g2"}), `is for ["kiosk-g3"], this machine is ["kiosk-g2"]`},
	} {
		if tt.want == "" && tt.err != nil || tt.want != "" && (tt.err == nil || !strings.Contains(tt.err.Error(), tt.want)) {
			t.Errorf("%s: %v; want %q", tt.name, tt.err, tt.want)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	text, err := os.ReadFile("../docs/formats.md")
	if err != nil {
		f.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "```json\n")
	code, _, _ := strings.Cut(after, "```\n")
	f.Add([]byte(code))
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseManifest(text)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseManifest(again); err != nil {
			t.Errorf("what was accepted is refused once it was written again: %v", err)
		}
	})
}
