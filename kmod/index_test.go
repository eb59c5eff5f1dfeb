package kmod

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"reimager/report"
)

const goodIndex = `reimager-modules 1
kernel 6.1.0-test
first ahci ext4
builtin fat
alias fs-fat
module libata libata.ko
module ahci ahci.ko
depends libata
alias pci:v*d*sv*sd*bc01sc06i01*
module crc32c_generic crypto/crc32c.ko
alias crypto-crc32c
module ext4 ext4.ko
pre crc32c_generic
post ahci
alias fs-ext4
alias ext3
end 4
`

func sampleIndex() *Index {
	return &Index{
		Kernel:   testVersion,
		First:    []string{"ahci", "ext4"},
		BuiltIns: []BuiltIn{{Name: "fat", Aliases: []string{"fs-fat"}}},
		Modules: []IndexModule{
			{Name: "libata", File: "libata.ko"},
			{Name: "ahci", File: "ahci.ko", Depends: []string{"libata"}, Aliases: []string{"pci:v*d*sv*sd*bc01sc06i01*"}},
			{Name: "crc32c_generic", File: "crypto/crc32c.ko", Aliases: []string{"crypto-crc32c"}},
			{Name: "ext4", File: "ext4.ko", Pre: []string{"crc32c_generic"}, Post: []string{"ahci"}, Aliases: []string{"fs-ext4", "ext3"}},
		},
	}
}

func TestIndexRoundTrip(t *testing.T) {
	var b bytes.Buffer
	if err := sampleIndex().Encode(&b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goodIndex, b.String()); diff != "" {
		t.Errorf("Encode (-want +got):\n%s", diff)
	}
	got, err := DecodeIndex(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleIndex(), got, cmpopts.IgnoreUnexported(Index{})); diff != "" {
		t.Errorf("DecodeIndex (-want +got):\n%s", diff)
	}
}

func TestDecodeIndexErrors(t *testing.T) {
	for _, test := range []struct{ name, old, new, want string }{
		{"magic", "reimager-modules 1", "reimager-modules 2", `line 1: want "reimager-modules 1"`},
		{"no kernel", "kernel 6.1.0-test\n", "", "line 2: want the kernel's release"},
		{"empty kernel", "kernel 6.1.0-test", "kernel ", `line 2: field "kernel" has no value`},
		{"kernel path", "kernel 6.1.0-test", "kernel ../6", "is no kernel release"},
		{"kernel twice", "first ahci ext4", "kernel 6", `line 3: field "kernel" does not belong here`},
		{"unknown field", "depends libata", "requires libata", `line 8: unknown field "requires"`},
		{"field twice", "depends libata", "depends libata\ndepends libata", "line 9: field \"depends\" repeated"},
		{"no file", "module libata libata.ko", "module libata", `module libata: file ""`},
		{"absolute file", "libata.ko", "/libata.ko", `module libata: file "/libata.ko"`},
		{"dots in file", "crypto/crc32c.ko", "crypto/../../x.ko", `file "crypto/../../x.ko"`},
		{"same file", "crypto/crc32c.ko", "ahci.ko", "module crc32c_generic: its file ahci.ko is that of ahci"},
		{"dash in name", "module libata ", "module lib-ata ", `"lib-ata" is no module's name`},
		{"module twice", "module libata ", "module ahci ", "module ahci is there twice"},
		{"built in and module", "builtin fat", "builtin ahci", "built in: module ahci is there twice"},
		{"unknown dependency", "depends libata", "depends libahci", `module ahci: depends: module "libahci" is not in the index`},
		{"built-in dependency", "depends libata", "depends fat", `depends: module "fat" is not in the index`},
		{"cycle", "module libata libata.ko", "module libata libata.ko\ndepends ahci", "module libata: depends: module ahci comes later: a cycle"},
		{"itself", "depends libata", "depends ahci", "module ahci: depends: module ahci comes later"},
		{"soft cycle", "module libata libata.ko", "module libata libata.ko\npre ext4", "pre: module ext4 comes later"},
		{"unknown first", "first ahci", "first nvme", `first: module "nvme" is not in the index`},
		{"two spaces", "first ahci ext4", "first ahci  ext4", `first: module "" is not in the index`},
		{"alias with space", "alias ext3", "alias ext 3", `alias "ext 3" is empty or has spaces`},
		{"field before module", "builtin fat", "depends fat", `line 4: field "depends" before a module`},
		{"head after module", "end 4", "builtin x\nend 4", `line 17: field "builtin" after the first module`},
		{"count", "end 4", "end 3", `line 17: 4 modules, the end line counts "3"`},
		{"no end", "end 4\n", "", "line 16: cut off, no end line"},
		{"no newline", "end 4\n", "end 4", "line 17: cut off, no newline"},
		{"trailing", "end 4\n", "end 4\nmore\n", "line 18: text after the end line"},
		{"carriage return", "end 4\n", "end 4\r\n", `the end line counts "4\r"`},
		{"empty line", "builtin fat", "\nbuiltin fat", `line 4: field "" has no value`},
		{"empty", goodIndex, "", "line 0: cut off, no end line"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := DecodeIndex(strings.NewReader(strings.Replace(goodIndex, test.old, test.new, 1)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("DecodeIndex: got error %v; want %q", err, test.want)
			}
		})
	}
}

func TestEncodeRefusesWhatDecodeWould(t *testing.T) {
	x := sampleIndex()
	x.Modules[0].Depends = []string{"ext4"}
	if err := x.Encode(&bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "comes later") {
		t.Errorf("Encode of a cycle: got %v", err)
	}
}

func TestMatch(t *testing.T) {
	x := sampleIndex()
	got := x.Match("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01")
	if diff := cmp.Diff([]string{"ahci"}, got); diff != "" {
		t.Errorf("Match (-want +got):\n%s", diff)
	}
}

func TestCheckKernel(t *testing.T) {
	x := sampleIndex()
	if err := x.CheckKernel(testVersion); err != nil {
		t.Errorf("CheckKernel of its own kernel: %v", err)
	}
	got := report.Explain(x.CheckKernel("5.10"))
	want := "check modules: built for kernel 6.1.0-test, running is 5.10\n" +
		"hint: build the initrd again with --modules /lib/modules/5.10, or boot it with the kernel 6.1.0-test"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("CheckKernel (-want +got):\n%s", diff)
	}
}

// FuzzDecodeIndex varies what follows the first two lines; the table has those.
func FuzzDecodeIndex(f *testing.F) {
	const head = "reimager-modules 1\nkernel 6.1.0-test\n"
	f.Add(strings.TrimPrefix(goodIndex, head))
	f.Add("end 0\n")
	f.Add("first b a\nmodule a a.ko\npost b\nmodule b x/b.ko\ndepends a\npost a\nend 2\n")
	f.Add("module a ../a.ko\nend 1\n")
	f.Add("module a a.ko\ndepends b\nmodule b b.ko\npre a\nend 2\n")
	f.Add("builtin a\nalias fs-*\nbuiltin b\nend 0\n")
	f.Fuzz(func(t *testing.T, body string) {
		x, err := DecodeIndex(strings.NewReader(head + body))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := x.Encode(&b); err != nil {
			t.Fatalf("Encode of what was decoded: %v", err)
		}
		if diff := cmp.Diff(head+body, b.String()); diff != "" {
			t.Errorf("two texts of one index (-decoded +encoded):\n%s", diff)
		}
		x.Match("pci:v1d2")
	})
}

func BenchmarkDecodeIndex(b *testing.B) {
	x := &Index{Kernel: testVersion}
	for i := range 170 {
		m := IndexModule{Name: fmt.Sprint("m", i), File: fmt.Sprint("m", i, ".ko")}
		for j := range 15 {
			m.Aliases = append(m.Aliases, fmt.Sprintf("pci:v%08Xd%08Xsv*sd*bc*sc*i*", i, j))
		}
		x.Modules = append(x.Modules, m)
	}
	var text bytes.Buffer
	if err := x.Encode(&text); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		got, err := DecodeIndex(bytes.NewReader(text.Bytes()))
		if err != nil {
			b.Fatal(err)
		}
		got.prepare()
	}
}
