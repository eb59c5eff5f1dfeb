package check

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"reimager/config"
	"reimager/initramfs"
	"reimager/kmod"
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

func bakedInitrd(t *testing.T, version, configuration string) string {
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
		{"lifeboat required", with(map[string]string{"a.initrd": bakedInitrd(t, "6.1.0-1", "[power_cut]\nlifeboat = \"require\"\n")}), "no lifeboat"},
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
		case tt.want != "" && (r != nil || !strings.Contains(fails, tt.want)):
			t.Errorf("%s: ReadRelease = %+v; want a fail with %q", tt.name, results, tt.want)
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
