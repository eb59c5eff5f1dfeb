package kmod

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"reimager/report"
)

const testVersion = "6.1.0-test"

// object builds a minimal relocatable ELF object with a .modinfo section.
func object(t *testing.T, fileType uint16, modinfo string) []byte {
	t.Helper()
	const headerSize, sectionSize = 64, 64
	names := "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	ident := [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}
	infoAt := uint64(headerSize)
	namesAt := infoAt + uint64(len(modinfo))
	tableAt := namesAt + uint64(len(names))
	le := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(ident[:])
	le([]uint16{fileType, 62})
	le(uint32(1))
	le([]uint64{0, 0, tableAt})
	le(uint32(0))
	le([]uint16{headerSize, 0, 0, sectionSize, 3, 2})
	b.WriteString(modinfo + names)
	section := func(name, kind uint32, at, size uint64) {
		le([]uint32{name, kind})
		le([]uint64{0, 0, at, size})
		le([]uint32{0, 0})
		le([]uint64{1, 0})
	}
	section(0, 0, 0, 0)
	section(1, 1, infoAt, uint64(len(modinfo)))
	section(10, 3, namesAt, uint64(len(names)))
	return b.Bytes()
}

func moduleObject(t *testing.T) []byte {
	t.Helper()
	return object(t, 1, "license=GPL\x00vermagic="+testVersion+" SMP mod_unload \x00")
}

// compressed packs data as the suffix of name says.
func compressed(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch filepath.Ext(name) {
	case ".xz":
		w, err = xz.WriterConfig{CheckSum: xz.CRC32}.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	case ".gz":
		w = gzip.NewWriter(&b)
	default:
		return data
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// treeDir writes a tree from the text of its files.
func treeDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "lib/modules", testVersion)
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sample is a small tree with each kind of relation in it.
func sample() map[string]string {
	return map[string]string{
		"modules.dep": strings.Join([]string{
			"kernel/drivers/ata/ahci.ko: kernel/drivers/ata/libahci.ko kernel/drivers/ata/libata.ko",
			"kernel/drivers/ata/libahci.ko: kernel/drivers/ata/libata.ko",
			"kernel/drivers/ata/libata.ko:",
			"kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.zst",
			"kernel/fs/jbd2/jbd2.ko.zst:",
			"kernel/crypto/crc32c_generic.ko.gz:",
			"kernel/arch/x86/crypto/crc32c-intel.ko:",
			"kernel/drivers/usb/usb-storage.ko:",
			"kernel/vfio.ko:",
			"kernel/vfio_iommu.ko: kernel/vfio.ko",
			"kernel/egg.ko: kernel/shell.ko",
			"kernel/shell.ko:",
			"kernel/hen.ko:",
		}, "\n") + "\n",
		"modules.alias": "# comment\n" +
			"alias fs-ext4 ext4\n" +
			"alias pci:v00008086d00002922sv*sd*bc*sc*i* ahci\n" +
			"alias pci:v*d*sv*sd*bc01sc06i01* ahci\n" +
			"alias crypto-crc32c crc32c_intel\n" +
			"alias crypto-crc32c crc32c_generic\n" +
			"alias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage\n" +
			"alias gone gone_module\n",
		"modules.softdep": "softdep ext4 pre: crypto-crc32c\n" +
			"softdep vfio post: vfio_iommu not_there\n" +
			// hen softly wants the egg first, and shell, which egg needs, the hen.
			"softdep hen pre: egg\nsoftdep shell pre: hen\nsoftdep cifs gcm\n",
		"modules.builtin": "kernel/fs/fat/fat.ko\nkernel/lib/crc-t10dif.ko\n",
		"modules.builtin.modinfo": "fat.license=GPL\x00fat.alias=fs-fat\x00nodot=1\x00noequals\x00" +
			"crc_t10dif.alias=crypto-crct10dif\x00",
	}
}

func openSample(t *testing.T) *Tree {
	t.Helper()
	tree, err := OpenTree(treeDir(t, sample()))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestOpenTreeErrors(t *testing.T) {
	for _, test := range []struct {
		name, file, text, want string
	}{
		{"no dep", "", "", "no modules.dep in it\nhint: run `depmod -b"},
		{"no colon", "modules.dep", "\nkernel/a.ko\n", `modules.dep: line 2: no colon in "kernel/a.ko"`},
		{"no module", "modules.dep", "kernel/a.txt:\n", `line 1: "kernel/a.txt" is no module's file`},
		{"empty target", "modules.dep", ":\n", `line 1: module "" lies outside the tree`},
		{"outside", "modules.dep", "../a.ko:\n", `line 1: module "../a.ko" lies outside the tree`},
		{"absolute", "modules.dep", "/opt/a.ko:\n", `line 1: module "/opt/a.ko" lies outside the tree`},
		{"twice", "modules.dep", "x/a-b.ko:\ny/a_b.ko:\n", "line 2: module a_b is already on line 1"},
		{"itself", "modules.dep", "a.ko: a.ko\n", "line 1: module a depends on itself"},
		{"unknown", "modules.dep", "a.ko:\nb.ko: z.ko y.ko\n", "line 2: dependency y has no line of its own"},
		{"alias", "modules.alias", "alias x\n", "modules.alias: line 1: want `alias PATTERN MODULE`"},
		{"softdep", "modules.softdep", "soft\n", "modules.softdep: line 1: want `softdep MODULE …`"},
		{"builtin", "modules.builtin", "kernel/x\n", `modules.builtin: line 1: "kernel/x" is no module's file`},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := map[string]string{}
			if test.file != "" {
				files["modules.dep"] = ""
				files[test.file] = test.text
			}
			_, err := OpenTree(treeDir(t, files))
			if err == nil || !strings.Contains(report.Explain(err), test.want) {
				t.Errorf("OpenTree: got %q; want %q in it", report.Explain(err), test.want)
			}
		})
	}
}

func TestDepmodHint(t *testing.T) {
	for dir, want := range map[string]string{
		"/lib/modules/1":         "run `depmod 1`",
		"/usr/lib/modules/1":     "run `depmod 1`",
		"/mnt/lib/modules/1":     "run `depmod -b /mnt 1`",
		"/mnt/usr/lib/modules/1": "run `depmod -b /mnt/usr 1`",
		"/mnt/1":                 "give the directory as …/lib/modules/VERSION and run `depmod -b ROOT 1`",
	} {
		tree := &Tree{dir: dir, Version: "1"}
		if got := tree.depmodHint(); got != want {
			t.Errorf("depmodHint of %s = %q; want %q", dir, got, want)
		}
	}
}

func TestAbsolutePathsInDep(t *testing.T) {
	got, err := parseDep("modules.dep", "1", []byte("/lib/modules/1/kernel/a.ko: /lib/modules/1/b.ko\nb.ko:\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]*Module{
		"a": {Name: "a", Path: "kernel/a.ko", Depends: []string{"b"}},
		"b": {Name: "b", Path: "b.ko"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parseDep (-want +got):\n%s", diff)
	}
}

func TestRead(t *testing.T) {
	good := moduleObject(t)
	for _, test := range []struct {
		path string
		data []byte
		want string // "" for good
	}{
		{"a.ko", good, ""},
		{"a.ko.xz", good, ""},
		{"a.ko.zst", good, ""},
		{"a.ko.gz", good, ""},
		{"a.ko", append(bytes.Clone(good), "~Module signature appended~\n"...), ""},
		{"weak-updates/a.ko", object(t, 1, "vermagic=5.0 SMP\x00"), ""},
		{"a.ko", []byte("#!/bin/sh"), "not an ELF object"},
		{"a.ko", nil, "not an ELF object"},
		{"a.ko", object(t, 3, "vermagic="+testVersion+"\x00"), "of type ET_DYN, want a relocatable one"},
		{"a.ko", object(t, 1, "license=GPL\x00"), "no vermagic"},
		{"a.ko", object(t, 1, "vermagic=5.0 SMP\x00"), "built for kernel 5.0, want 6.1.0-test"},
		{"a.ko.lz4", good, "unknown compression"},
	} {
		t.Run(test.path+" "+test.want, func(t *testing.T) {
			data := compressed(t, test.path, test.data)
			tree := &Tree{Version: testVersion, dir: treeDir(t, map[string]string{test.path: string(data)})}
			got, err := tree.Read(Module{Name: "a", Path: test.path})
			if test.want == "" {
				if err != nil || !bytes.Equal(got, test.data) {
					t.Errorf("Read: got %d bytes, error %v; want %d bytes", len(got), err, len(test.data))
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Read: got error %v; want %q", err, test.want)
			}
		})
	}
	tree := &Tree{Version: testVersion, dir: treeDir(t, nil)}
	if _, err := tree.Read(Module{Name: "a", Path: "a.ko"}); !strings.Contains(report.Explain(err), "hint: run `depmod") {
		t.Errorf("Read of a missing file: got %q; want a hint about depmod", report.Explain(err))
	}
}

func TestDecompressBoundsAndDamage(t *testing.T) {
	data := bytes.Repeat([]byte("kernel module "), 1000)
	for _, name := range []string{"a.ko", "a.ko.gz", "a.ko.xz", "a.ko.zst"} {
		packed := compressed(t, name, data)
		if _, err := decompress(bytes.NewReader(packed), name, int64(len(data))); err != nil {
			t.Errorf("%s at the limit: %v", name, err)
		}
		if _, err := decompress(bytes.NewReader(packed), name, int64(len(data))-1); err == nil || !strings.Contains(err.Error(), "larger than") {
			t.Errorf("%s beyond the limit: got %v; want larger than", name, err)
		}
		if name == "a.ko" {
			continue
		}
		for _, cut := range []int{0, 1, 5, len(packed) / 2, len(packed) - 1} {
			if _, err := decompress(bytes.NewReader(packed[:cut]), name, maxModule); err == nil && cut > 0 {
				t.Errorf("%s cut off at %d: no error", name, cut)
			}
		}
	}
}

func FuzzParseDep(f *testing.F) {
	f.Add([]byte(sample()["modules.dep"]))
	f.Add([]byte("a.ko"))
	f.Add([]byte("/lib/modules/1/a.ko: b.ko\nb.ko:\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		modules, err := parseDep("modules.dep", "1", data)
		if err != nil {
			if !strings.Contains(err.Error(), "modules.dep: line ") {
				t.Errorf("no file and line in %q", err)
			}
			return
		}
		for name, m := range modules {
			if m.Name != name || !validName(name) || !filepath.IsLocal(m.Path) {
				t.Errorf("module %q: %+v", name, m)
			}
			for _, dep := range m.Depends {
				if modules[dep] == nil {
					t.Errorf("module %q depends on %q, which is not there", name, dep)
				}
			}
		}
	})
}
