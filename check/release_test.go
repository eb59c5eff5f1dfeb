package check

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"reimager/config"
	"reimager/image"
	"reimager/initramfs"
	"reimager/kmod"
	"reimager/pack"
	"reimager/report"
)

// kernel is the header of a bzImage of a version: Documentation/arch/x86/boot.rst.
func kernel(version string) string {
	b := make([]byte, 4096)
	b[0x1f1] = 4
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	copy(b[0x202:], "HdrS")
	b[0x211] = 1 // loaded high
	binary.LittleEndian.PutUint16(b[0x206:], 0x020f)
	binary.LittleEndian.PutUint16(b[0x20e:], 0x400)
	copy(b[0x600:], version+" (builder@host) #1 SMP\x00")
	return string(b)
}

func bakedInitrd(t *testing.T, version, configuration string, keys ...string) string {
	t.Helper()
	x := &kmod.Index{Kernel: version, First: []string{"ahci"}, Modules: []kmod.IndexModule{{Name: "ahci", File: "ahci.ko"}}}
	var index, out bytes.Buffer
	if err := x.Encode(&index); err != nil {
		t.Fatal(err)
	}
	a := initramfs.New()
	for name, content := range map[string]string{config.FilePath: configuration, config.ModuleIndexPath: index.String(), config.RetentionListPath: ""} {
		if err := a.File(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range keys {
		if err := a.File(config.KeyDir+"/fleet.pub", []byte(key), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Write(&out, initramfs.Gzip); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestReadRelease(t *testing.T) {
	good := map[string]string{
		"vmlinuz": kernel("6.1.0-1"), "a.initrd": bakedInitrd(t, "6.1.0-1", "[trust]\nsignature = \"if-present\"\n"), "new.img.bz2": "BZh9 and so on",
		"old.img.bz2.minisig": "untrusted comment: x\n", "README": "read me",
	}
	with := func(change map[string]string) map[string]string {
		all := map[string]string{}
		for _, m := range []map[string]string{good, change} {
			for name, content := range m {
				all[name] = content
			}
		}
		return all
	}
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"whole", good, ""},
		{"empty", nil, "there is no kernel in it"},
		{"two images", with(map[string]string{"other.xz": "\xfd7zXZ\x00"}), "2 files are each image"},
		{"other kernel", with(map[string]string{"vmlinuz": kernel("6.1.0-2")}), "the kernel is 6.1.0-2, but the initrd has modules for 6.1.0-1"},
		{"signature that nobody can judge", with(map[string]string{"new.img.bz2.minisig": "untrusted comment: x\n"}), "its initrd trusts no key"},
		{"no signature", with(map[string]string{"a.initrd": bakedInitrd(t, "6.1.0-1", "")}), "there is no signature new.img.bz2.minisig"},
		{"compatible named", with(map[string]string{"a.initrd": bakedInitrd(t, "6.1.0-1", "[trust]\nsignature = \"if-present\"\n[machine]\ncompatible = [\"till\"]\n")}), "a bare image does not say"},
		{"lifeboat of no kind", with(map[string]string{"a.initrd": bakedInitrd(t, "6.1.0-1", "[power_cut]\nlifeboat = \"always\"\n")}), "power_cut.lifeboat"},
		{"somebody else's initrd", with(map[string]string{"a.initrd": otherInitrd(t)}), "not an initrd of imagebuild"},
	} {
		dir := t.TempDir()
		for name, content := range tt.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		r, results := ReadRelease(dir, nil)
		fails := ""
		for _, x := range results {
			if x.Verdict == Fail {
				fails += x.Found
			}
		}
		switch {
		case tt.want == "" && (r == nil || filepath.Base(r.Kernel) != "vmlinuz" || filepath.Base(r.Image) != "new.img.bz2"):
			t.Errorf("%s: ReadRelease = %+v, %+v", tt.name, r, results)
		case tt.want != "" && (r != nil && tt.name != "compatible named" || !strings.Contains(fails, tt.want)):
			t.Errorf("%s: ReadRelease = %+v; want a fail with %q", tt.name, results, tt.want)
		}
	}
}

// packedRelease makes a signed release, whose initrd trusts the key that signs it.
func packedRelease(t *testing.T, configuration string) (dir string, key image.Key) {
	t.Helper()
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := public.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	if key, err = image.ParseKey("fleet.pub", pub); err != nil {
		t.Fatal(err)
	}
	at := t.TempDir()
	disk := make([]byte, 1<<20)
	disk[510], disk[511] = 0x55, 0xaa
	for name, content := range map[string]string{
		"disk": string(disk), "kernel": kernel("6.1.0-1"), "initrd": bakedInitrd(t, "6.1.0-1", configuration, string(pub)),
	} {
		if err := os.WriteFile(filepath.Join(at, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir = filepath.Join(at, "release")
	_, err = pack.Pack(t.Context(), pack.Options{
		Disk: filepath.Join(at, "disk"), Output: dir, Format: image.Zstd, Kernel: filepath.Join(at, "kernel"), Initrd: filepath.Join(at, "initrd"),
		Name: "kiosk", Version: "2", Counter: 3, Compatible: []string{"till"}, Workers: 1, Report: report.New(io.Discard, nil, time.Now()),
		Sign: func(_ *image.Manifest, text []byte) ([]byte, error) {
			r := minisign.NewReader(bytes.NewReader(text))
			_, err := io.Copy(io.Discard, r)
			return r.SignWithComments(private, "trusted", "untrusted"), err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir, key
}

// Whatever is changed in a release has a check that says so, by its name.
func TestReadPackedRelease(t *testing.T) {
	flip := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
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
	_, stranger := packedRelease(t, "")
	for _, tt := range []struct {
		name, configuration string
		spoil               func(*testing.T, string)
		given               []image.Key
		fails               Name // "": none
	}{
		{"whole", "", nil, nil, ""},
		{"compatible", "[machine]\ncompatible = [\"till\"]\n", nil, nil, ""},
		{"somebody else's key is given", "", nil, []image.Key{stranger}, Signature},
		{"signature missing", "", remove("manifest.json.minisig"), nil, Signature},
		{"signature damaged", "", flip("manifest.json.minisig"), nil, Signature},
		{"image damaged", "", flip("image.zst"), nil, Digests},
		{"initrd damaged", "", flip("initrd"), nil, Digests},
		{"kernel damaged", "", flip("kernel"), nil, Digests},
		{"map damaged", "", flip("image.bmap"), nil, Digests},
		{"kernel missing", "", remove("kernel"), nil, Digests},
	} {
		dir, _ := packedRelease(t, tt.configuration)
		if tt.spoil != nil {
			tt.spoil(t, dir)
		}
		r, results := ReadRelease(dir, tt.given)
		var fails []Name
		for _, x := range results {
			if x.Verdict == Fail {
				fails = append(fails, x.Name)
			}
		}
		if tt.fails == "" && (r == nil || len(fails) > 0 || r.SignedBy == nil || r.Job().Counter != 3) {
			t.Errorf("%s: ReadRelease = %+v, %+v", tt.name, r, results)
		}
		if tt.fails != "" && (len(fails) != 1 || fails[0] != tt.fails) {
			t.Errorf("%s: %q failed; want %s", tt.name, fails, tt.fails)
		}
	}
}

func otherInitrd(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	if err := initramfs.New().Write(&out, initramfs.Gzip); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
