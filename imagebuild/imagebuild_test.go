package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/cli"
	"reimager/initramfs"
)

// site is a build host: a configuration, a list, a static init, and a small module
// tree.
type site struct{ dir, config, list, init, modules, out string }

func newSite(t *testing.T) site {
	t.Helper()
	dir := t.TempDir()
	s := site{dir, filepath.Join(dir, "reimager.toml"), filepath.Join(dir, "list"), filepath.Join(dir, "init"),
		filepath.Join(dir, "lib/modules/6.1.0-test"), filepath.Join(dir, "out.initrd")}
	write(t, s.config, "[machine]\nmodules = [\"ahci\", \"ext4\"]\n[trust]\nsignature = \"if-present\"\n")
	write(t, s.list, "/etc/machine-id\n/etc/ssh\n")
	write(t, s.init, string(staticELF()))
	write(t, filepath.Join(s.modules, "modules.dep"), "kernel/ahci.ko: kernel/libata.ko\nkernel/libata.ko:\nkernel/ext4.ko:\n")
	write(t, filepath.Join(s.modules, "modules.alias"), "alias pci:v*d*sv*sd*bc01sc06i01* ahci\nalias fs-ext4 ext4\n")
	write(t, filepath.Join(s.modules, "modules.softdep"), "")
	write(t, filepath.Join(s.modules, "modules.builtin"), "kernel/drivers/scsi/sd_mod.ko\n")
	for _, name := range []string{"ahci", "libata", "ext4"} {
		write(t, filepath.Join(s.modules, "kernel", name+".ko"), string(moduleELF(name)))
	}
	return s
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

// elfHeader is an ELF64 header of a type and with a number of sections.
func elfHeader(kind elf.Type, sections uint16, sectionTable uint64) []byte {
	h := elf.Header64{Type: uint16(kind), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: sections, Shoff: sectionTable}
	if sections > 0 {
		h.Shstrndx = sections - 1
	}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, h) // a bytes.Buffer takes everything
	return b.Bytes()
}

func staticELF() []byte { return elfHeader(elf.ET_EXEC, 0, 0) }

// moduleELF is a relocatable file with a .modinfo, as a kernel module has it.
func moduleELF(name string) []byte {
	info := "vermagic=6.1.0-test SMP\x00name=" + name + "\x00"
	names := "\x00.modinfo\x00.shstrtab\x00"
	body := info + names
	var b bytes.Buffer
	b.Write(elfHeader(elf.ET_REL, 3, uint64(64+len(body))))
	b.WriteString(body)
	for _, s := range []elf.Section64{{}, {Name: 1, Type: 1, Off: 64, Size: uint64(len(info))}, {Name: 10, Type: 3, Off: uint64(64 + len(info)), Size: uint64(len(names))}} {
		_ = binary.Write(&b, binary.LittleEndian, s)
	}
	return b.Bytes()
}

func (s site) args(more ...string) []string {
	return append([]string{"initrd", "--config", s.config, "--retain", s.list, "--modules", s.modules, "--init", s.init, "-o", s.out}, more...)
}

func try(args ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = run(args, &out, &err)
	return status, out.String(), err.String()
}

func TestInitrd(t *testing.T) {
	s := newSite(t)
	s.configure(t, "off")
	status, out, errs := try(s.args()...)
	if status != cli.Done || !strings.Contains(out, "kernel 6.1.0-test: 3 modules") {
		t.Fatalf("imagebuild = %d\n%s%s", status, out, errs)
	}
	a, err := initramfs.ReadFile(s.out)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/dev", "/dev/console", "/etc", "/etc/reimager", "/etc/reimager/reimager.toml", "/etc/reimager/retentionlist", "/init",
		"/lib", "/lib/modules", "/lib/modules/reimager", "/lib/modules/reimager/ahci.ko", "/lib/modules/reimager/ext4.ko",
		"/lib/modules/reimager/index", "/lib/modules/reimager/libata.ko", "/proc", "/run", "/sys", "/tmp"}
	if diff := cmp.Diff(want, a.Names()); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
}

// The same input gives the same bytes, wherever and whenever it is built.
func TestInitrdIsReproducible(t *testing.T) {
	one, two := newSite(t), newSite(t)
	for _, s := range []site{one, two} {
		if status, _, errs := try(s.args()...); status != cli.Done {
			t.Fatal(errs)
		}
	}
	a, errA := os.ReadFile(one.out)
	b, errB := os.ReadFile(two.out)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("two initrds of the same input differ (%v, %v)", errA, errB)
	}
}

// What cannot work on the machine is refused here, with the file, the cause and a
// hint; and a file that was there before stays.
func TestInitrdRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, s *site)
		args  []string
		want  []string
	}{
		{"unknown key", func(t *testing.T, s *site) {
			write(t, s.config, "[trust]\nsignature = \"if-present\"\n[target]\ndsik = \"/dev/sda\"\n")
		}, nil,
			[]string{"reimager.toml:4:1", `unknown key "target.dsik"`, "hint:"}},
		{"missing module", func(t *testing.T, s *site) {
			write(t, s.config, "[machine]\nmodules = [\"ahci\", \"sd_mod\", \"megaraid\"]\n[trust]\nsignature = \"if-present\"\n")
		}, nil, []string{"megaraid", "hint:"}},
		{"signature without a key", func(t *testing.T, s *site) { write(t, s.config, "[machine]\nmodules = [\"ext4\"]\n") }, nil,
			[]string{`trust.signature = "require"`, "--key", "hint:"}},
		{"bad list", func(t *testing.T, s *site) { write(t, s.list, "/etc/machine-id\netc/ssh\n") }, nil, []string{"list:2"}},
		{"dynamic init", func(t *testing.T, s *site) { s.init = dynamicProgram(t) }, nil, []string{"dynamically linked", "CGO_ENABLED=0"}},
		{"no init", func(_ *testing.T, s *site) { s.init += "x" }, nil, []string{"read init", "just build"}},
		{"no module tree", func(_ *testing.T, s *site) { s.modules += "x" }, nil, []string{"6.1.0-testx"}},
		{"shell not included", func(t *testing.T, s *site) {
			write(t, s.config, "[machine]\nmodules = [\"ext4\"]\n[trust]\nsignature = \"if-present\"\n[console]\ndiagnosis = [\"tty2\"]\n")
		}, nil, []string{"/bin/sh is not in the initrd", "--include"}},
		{"included file missing", func(*testing.T, *site) {}, []string{"--include", "/nowhere/at/all"}, []string{"/nowhere/at/all"}},
		{"compression", func(*testing.T, *site) {}, []string{"--compress", "rar"}, []string{`"rar"`, "gzip"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			write(t, s.out, "the one before")
			tt.spoil(t, &s)
			status, _, errs := try(s.args(tt.args...)...)
			if status != cli.Failed {
				t.Errorf("imagebuild = %d; want %d", status, cli.Failed)
			}
			for _, want := range tt.want {
				if !strings.Contains(errs, want) {
					t.Errorf("error lacks %q:\n%s", want, errs)
				}
			}
			if text, err := os.ReadFile(s.out); err != nil || string(text) != "the one before" {
				t.Errorf("the output that was there is now %q, %v", text, err)
			}
			if left, _ := filepath.Glob(filepath.Join(s.dir, ".out.initrd*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// dynamicProgram is a program of this host that needs a dynamic linker.
func dynamicProgram(t *testing.T) string {
	t.Helper()
	p, err := exec.LookPath("ls")
	if err == nil && !dynamic(p) {
		p, err = exec.LookPath("bash")
	}
	if err != nil || !dynamic(p) {
		t.Fatalf("this host has no dynamically linked ls or bash (%v)", err)
	}
	return p
}

// An included program runs with nothing but what the initrd has.
func TestIncludeBringsLibraries(t *testing.T) {
	s := newSite(t)
	program := dynamicProgram(t)
	folder := filepath.Join(s.dir, "folder")
	write(t, filepath.Join(folder, "sub/data"), "data")
	if err := os.Symlink("sub/data", filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	status, _, errs := try(s.args("--include", program+":/bin/tool", "--include", folder+":/opt/folder")...)
	if status != cli.Done {
		t.Fatal(errs)
	}
	a, err := initramfs.ReadFile(s.out)
	if err != nil {
		t.Fatal(err)
	}
	if target, err := a.Content("/opt/folder/link"); err != nil || string(target) != "sub/data" {
		t.Errorf("link = %q, %v; want sub/data", target, err)
	}
	root := t.TempDir()
	for _, name := range a.Names() {
		if content, err := a.Content(name); err == nil && len(content) > 0 && a.Mode(name)&0o170000 == 0o100000 {
			write(t, filepath.Join(root, name), string(content))
		}
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("running the included program needs chroot: run the tests as root")
		}
		t.Skip("running the included program needs chroot: run the tests as root")
	}
	if out, err := exec.Command("chroot", root, "/bin/tool", "--version").CombinedOutput(); err != nil {
		t.Errorf("the included program: %v\n%s", err, out)
	}
}

func TestInspect(t *testing.T) {
	s := newSite(t)
	if status, _, errs := try(s.args()...); status != cli.Done {
		t.Fatal(errs)
	}
	status, out, errs := try("inspect", s.out)
	for _, want := range []string{"kernel    6.1.0-test", "ahci", "/etc/machine-id", `signature = "if-present"`, "/init"} {
		if status != cli.Done || !strings.Contains(out, want) {
			t.Errorf("inspect = %d, lacks %q:\n%s%s", status, want, out, errs)
		}
	}
	var in inside
	if status, out, errs = try("inspect", "--json", s.out); status != cli.Done || json.Unmarshal([]byte(out), &in) != nil {
		t.Fatalf("inspect --json = %d\n%s%s", status, out, errs)
	}
	if diff := cmp.Diff([]string{"libata", "ahci", "ext4"}, in.Modules); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
	other := filepath.Join(s.dir, "other")
	write(t, other, "not an initrd")
	if status, _, errs := try("inspect", other); status != cli.Failed || !strings.Contains(errs, "expected gzip or zstd") {
		t.Errorf("inspect of another file = %d, %s", status, errs)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"initrd", "--no-such"}, {"inspect"}, {"inspect", "a", "b"}, {"nothing"}, {"initrd", "x"}, {"initrd"}} {
		if status, _, errs := try(args...); status != cli.Usage || errs == "" {
			t.Errorf("imagebuild %q = %d, %q; want %d and an error", args, status, errs, cli.Usage)
		}
	}
	for _, args := range [][]string{{"--help"}, {"initrd", "--help"}, {"inspect", "--help"}, {"--version"}, {"completion", "bash"}} {
		if status, out, _ := try(args...); status != cli.Done || out == "" {
			t.Errorf("imagebuild %q = %d; want help", args, status)
		}
	}
}
