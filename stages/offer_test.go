package stages

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/report"
)

// packed is a small release that is signed by one key and not by another.
func packed(t *testing.T) (dir string, trusted, other image.Key) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "release")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 64<<10)
	copy(raw, "boot code")
	raw[510], raw[511] = 0x55, 0xaa
	m := &image.Map{Bytes: int64(len(raw)), Ranges: []image.MapRange{{Extent: image.Extent{Bytes: int64(len(raw))}, Digest: image.Range{Data: raw}.Digest()}}}
	bmap, err := image.EncodeMap(m)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, b []byte) image.File {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return image.File{Name: name, Bytes: int64(len(b)), SHA256: image.Range{Data: b}.Digest()}
	}
	compress := exec.Command("gzip", "-c")
	compress.Stdin = bytes.NewReader(raw)
	compressed, err := compress.Output()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := (&image.Manifest{
		Format: image.ManifestFormat, Name: "kiosk", Version: "1", Counter: 1, Compatible: []string{"kiosk-g3"},
		Image: image.ImageFile{File: file("image.gz", compressed), Format: image.Gzip, RawBytes: m.Bytes, MappedBytes: m.Bytes},
		Map:   file("image.bmap", bmap), Disk: image.Disk{MinBytes: m.Bytes, SectorSize: 512},
	}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	file(image.ManifestName, manifest)
	keys := make([]image.Key, 2)
	for i := range keys {
		public, private, err := minisign.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		text, err := public.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if keys[i], err = image.ParseKey("key", text); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			r := minisign.NewReader(bytes.NewReader(manifest))
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Fatal(err)
			}
			file(image.ManifestName+image.SignatureSuffix, r.Sign(private))
		}
	}
	return dir, keys[0], keys[1]
}

// What a machine takes and what it refuses, before anything of it is in RAM but
// manifest and map.
func TestOffer(t *testing.T) {
	fits := disk.Disk{Name: "sda", Path: "/dev/sda", Bytes: 1 << 20, SectorSize: 512}
	small, fourK := fits, fits
	small.Bytes, fourK.SectorSize = 32<<10, 4096
	edit := func(name string, change func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), change(b), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	for _, tt := range []struct {
		name   string
		config string
		disk   disk.Disk
		keys   string // of "trusted" and "other"
		path   string
		job    *config.Job
		change func(*testing.T, string)
		want   string // an error; "" for none
	}{
		{"as packed", "", fits, "other trusted", "/release", nil, nil, ""},
		{"compatible", "[machine]\ncompatible = [\"a\", \"kiosk-g3\"]", fits, "trusted", "/release", nil, nil, ""},
		{"incompatible", "[machine]\ncompatible = [\"kiosk-g2\"]", fits, "trusted", "/release", nil, nil, `this machine is ["kiosk-g2"]`},
		{"other key", "", fits, "other", "/release", nil, nil, "expected one of the trusted keys"},
		{"no key", "", fits, "", "/release", nil, nil, "no key is trusted"},
		{"not signed", "", fits, "trusted", "/release", nil, remove("manifest.json.minisig"), "there is no signature"},
		{"not signed, allowed", "[trust]\nsignature = \"if-present\"", fits, "trusted", "/release", nil, remove("manifest.json.minisig"), ""},
		{"wrongly signed, although allowed not to be", "[trust]\nsignature = \"if-present\"", fits, "other", "/release", nil, nil, "expected one of the trusted keys"},
		{"signed, nobody can tell", "[trust]\nsignature = \"if-present\"", fits, "", "/release", nil, nil, "no key is trusted"},
		{"changed manifest", "", fits, "trusted", "/release", nil, edit("manifest.json", flip), "not what was signed"},
		{"changed map", "", fits, "trusted", "/release", nil, edit("image.bmap", flip), "image.bmap has the SHA-256"},
		{"changed image", "", fits, "trusted", "/release", nil, edit("image.gz", flip), "image.gz"},
		{"cut image", "", fits, "trusted", "/release", nil, edit("image.gz", func(b []byte) []byte { return b[1:] }), "bytes, expected"},
		{"no image", "", fits, "trusted", "/release", nil, remove("image.gz"), "no such file"},
		{"small disk", "", small, "trusted", "/release", nil, nil, "has 32768 bytes, release kiosk 1 needs 65536"},
		{"4Kn disk", "", fourK, "trusted", "/release", nil, nil, "sectors of 4096 bytes"},
		{"other image armed", "", fits, "trusted", "/release", &config.Job{Image: config.JobImage{SHA256: strings.Repeat("0", 64)}}, nil, "as when the machine was armed"},
		{"no release", "", fits, "trusted", "/", nil, nil, "there is no manifest.json in it"},
		{"nothing", "", fits, "trusted", "/other", nil, nil, "there is no /other"},
		{"bare image, compatible asked for", "[machine]\ncompatible = [\"a\"]", fits, "trusted", "/release/image.gz", nil, nil, "a bare image says nothing of them"},
		{"bare image, not signed", "", fits, "trusted", "/release/image.gz", nil, nil, "there is no signature"},
		{"bare image, allowed", "[trust]\nsignature = \"if-present\"", fits, "trusted", "/release/image.gz", nil, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, trusted, other := packed(t)
			if tt.change != nil {
				tt.change(t, dir)
			}
			c, err := config.Parse("reimager.toml", []byte(tt.config))
			if err != nil {
				t.Fatal(err)
			}
			r := &Run{Config: c, Job: tt.job, Report: report.New(io.Discard, nil, time.Now()), Record: &report.Record{}}
			for _, k := range strings.Fields(tt.keys) {
				r.Keys = append(r.Keys, map[string]image.Key{"trusted": trusted, "other": other}[k])
			}
			root, err := os.OpenRoot(filepath.Dir(dir))
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			used := 0
			err = r.offered(root, config.Source{Path: tt.path}, &tt.disk, func(o *offer) error {
				used++
				_, err := io.Copy(io.Discard, o.content)
				return err
			})
			switch {
			case tt.want == "" && (err != nil || used != 1):
				t.Errorf("offered = %v, used %d times", err, used)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("offered = %v; want an error with %q", err, tt.want)
			}
		})
	}
}
