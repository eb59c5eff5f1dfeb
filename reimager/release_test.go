package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"reimager/cli"
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
		"vmlinuz": kernel("6.1.0-1"), "a.initrd": bakedInitrd(t, "6.1.0-1", ""), "new.img.bz2": "BZh9 and so on",
		"new.img.bz2.minisig": "untrusted comment: x\n", "README": "read me",
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
		{"lifeboat required", with(map[string]string{"a.initrd": bakedInitrd(t, "6.1.0-1", "[power_cut]\nlifeboat = \"require\"\n")}), "no lifeboat"},
		{"somebody else's initrd", with(map[string]string{"a.initrd": foreign(t)}), "not an initrd of imagebuild"},
	} {
		dir := t.TempDir()
		for name, content := range tt.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		r, err := readRelease(dir, nil)
		switch {
		case tt.want == "" && (err != nil || filepath.Base(r.kernel) != "vmlinuz" || filepath.Base(r.image) != "new.img.bz2"):
			t.Errorf("%s: readRelease = %+v, %v", tt.name, r, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: readRelease = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
}

func foreign(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	if err := initramfs.New().Write(&out, initramfs.Gzip); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"arm"}, {"arm", "a", "b"}, {"disarm", "x"}, {"arm", "--now", "x"}, {"nothing"}} {
		var out, errs bytes.Buffer
		if status := run(args, &out, &errs); status != cli.Usage || errs.Len() == 0 {
			t.Errorf("reimager %q = %d, %q; want %d and an error", args, status, &errs, cli.Usage)
		}
	}
	for _, args := range [][]string{{"--help"}, {"arm", "--help"}, {"--version"}, {"completion", "zsh"}} {
		var out, errs bytes.Buffer
		if status := run(args, &out, &errs); status != cli.Done || out.Len() == 0 {
			t.Errorf("reimager %q = %d; want help", args, status)
		}
	}
}
