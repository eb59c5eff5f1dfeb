package boot

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/report"
)

// stockConfig is what grub-mkconfig writes for Debian, cut to what matters.
const stockConfig = `### BEGIN /etc/grub.d/00_header ###
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
### BEGIN /etc/grub.d/41_custom ###
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
`

func testEntry() Entry {
	return Entry{
		ID: "reimager", Title: "Reimage this machine",
		FSUUID: "0f1e2d3c-0000-4000-8000-123456789abc", FSType: "ext4",
		Kernel: "/boot/reimager/vmlinuz", Initrd: "/boot/reimager/initrd",
		Cmdline: []string{"quiet", "console=ttyS0,115200"},
		Gate:    "/boot/reimager/gate", RunID: "RUN7",
	}
}

// grubRoot makes a system with GRUB in /boot/grub.
func grubRoot(t *testing.T) (root string, grub *GRUB) {
	t.Helper()
	root = t.TempDir()
	writeFile(t, filepath.Join(root, "boot/grub/grub.cfg"), stockConfig)
	writeFile(t, filepath.Join(root, "boot/grub/grubenv"), block(envWarning, "saved_entry=0\n"))
	grub, err := FindGRUB(root)
	if err != nil {
		t.Fatal(err)
	}
	return root, grub
}

func TestFindGRUB(t *testing.T) {
	for _, tc := range []struct {
		name    string
		files   []string
		link    [2]string
		want    string
		wantErr string
	}{
		{"debian", []string{"boot/grub/grub.cfg"}, [2]string{}, "boot/grub", ""},
		{"red hat", []string{"boot/grub2/grub.cfg"}, [2]string{}, "boot/grub2", ""},
		{"red hat with an empty grub", []string{"boot/grub2/grub.cfg", "boot/grub/splash.xpm.gz"}, [2]string{}, "boot/grub2", ""},
		{"absolute link, inside the root", []string{"boot/real/grub.cfg"}, [2]string{"/boot/real", "boot/grub"}, "boot/grub", ""},
		{"link that climbs above the root", []string{"boot/real/grub.cfg"}, [2]string{"../../../../boot/real", "boot/grub"}, "boot/grub", ""},
		{"link to itself", []string{"boot/x"}, [2]string{"grub", "boot/grub"}, "", "too many levels"},
		{"both", []string{"boot/grub/grub.cfg", "boot/grub2/grub.cfg"}, [2]string{}, "", "both"},
		{"none", []string{"boot/vmlinuz"}, [2]string{}, "", "neither"},
		{"a directory named grub.cfg", []string{"boot/grub/grub.cfg/x"}, [2]string{}, "", "neither"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			for _, file := range tc.files {
				writeFile(t, filepath.Join(root, file), "")
			}
			if tc.link[0] != "" {
				if err := os.Symlink(tc.link[0], filepath.Join(root, tc.link[1])); err != nil {
					t.Fatal(err)
				}
			}
			grub, err := FindGRUB(root)
			checkError(t, err, tc.wantErr)
			if err == nil && grub.Dir() != filepath.Join(root, tc.want) {
				t.Errorf("Dir = %s; want %s", grub.Dir(), tc.want)
			}
		})
	}
}

func TestCheckConfig(t *testing.T) {
	without := func(line string) string {
		return strings.ReplaceAll(stockConfig, line, "# "+line)
	}
	for _, tc := range []struct{ name, config, wantErr, wantHint string }{
		{"debian", stockConfig, "", ""},
		{"red hat 9", `
if [ -f ${config_directory}/grubenv ]; then
  load_env -f ${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"; set next_entry=; save_env next_entry
fi
if [ -f  ${config_directory}/custom.cfg ]; then source ${config_directory}/custom.cfg; fi
`, "", ""},
		{"not read", without("load_env"), "no command load_env", "00_header"},
		{"not honoured", without(`set default="${next_entry}"`), `no command set default="${next_entry}"`, "00_header"},
		{"not cleared", without("save_env next_entry"), "no command save_env next_entry", "00_header"},
		{"another variable cleared", strings.ReplaceAll(stockConfig, "save_env next_entry", "save_env next_entry_old"), "no command save_env", "00_header"},
		{"custom.cfg not read", without("source "), "custom.cfg", "41_custom"},
		{"empty", "", "no command", "update-grub"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := checkGRUBConfig(tc.config)
			checkError(t, err, tc.wantErr)
			if !strings.Contains(report.Explain(err), tc.wantHint) {
				t.Errorf("explained: %s; want a hint with %q", report.Explain(err), tc.wantHint)
			}
		})
	}
}

// TestCheckConfigOfMkconfig runs the distribution's own scripts, whose output
// the patterns are for.
func TestCheckConfigOfMkconfig(t *testing.T) {
	custom := "/etc/grub.d/41_custom"
	if !fileExists(custom) {
		skipOrFail(t, "this test needs "+custom+" of GRUB's package")
	}
	header := readFile(t, "/etc/grub.d/00_header")
	start := strings.Index(header, "cat << EOF\nif [ -s")
	end := strings.Index(header, "function savedefault")
	if start < 0 || end < start {
		t.Fatal("00_header is not as expected")
	}
	script := filepath.Join(t.TempDir(), "header")
	writeFile(t, script, header[start:end]+"}\nEOF\n")
	config := run(t, "sh", script) + run(t, "sh", custom)
	if _, err := checkGRUBConfig(config); err != nil {
		t.Errorf("%v in\n%s", err, config)
	}
}

func TestInstallAndRemoveEntry(t *testing.T) {
	body, err := testEntry().Render()
	if err != nil {
		t.Fatal(err)
	}
	const theirs = "menuentry 'mine' {\n\ttrue\n}\n"
	ours := func(note string) string { return blockBegin + note + " ###\n" + body + blockEnd + "\n" }
	for _, tc := range []struct {
		name, before string // before "-": no file
		want         string
		edit         func(string) string // by somebody else, in between
		after        string
	}{
		{"no file", "-", ours(": file created"), nil, "-"},
		{"empty file", "", ours(""), nil, ""},
		{"others' entries", theirs, theirs + ours(""), nil, theirs},
		{"no newline at the end", "true", "true\n" + ours(": newline added"), nil, "true"},
		{"carriage returns stay", "true\r\n\n", "true\r\n\n" + ours(""), nil, "true\r\n\n"},
		{"created, then added to", "-", ours(": file created"),
			func(s string) string { return s + theirs }, theirs},
		{"newline, then added to", "true", "true\n" + ours(": newline added"),
			func(s string) string { return s + theirs }, "true\n" + theirs},
		{"removed by hand", "true\n", "true\n" + ours(""),
			func(string) string { return "true\n" }, "true\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root, grub := grubRoot(t)
			custom := filepath.Join(root, "boot/grub/custom.cfg")
			if tc.before != "-" {
				writeFile(t, custom, tc.before)
			}
			other := testEntry()
			other.Cmdline = []string{"reimager.rehearse"}
			// Once more, another one, and back: the same as once.
			for _, e := range []Entry{testEntry(), testEntry(), other, testEntry()} {
				if err := grub.InstallEntry(e); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(tc.want, readFile(t, custom)); diff != "" {
				t.Fatalf("installed (-want +got):\n%s", diff)
			}
			if tc.edit != nil {
				writeFile(t, custom, tc.edit(readFile(t, custom)))
			}
			for range 2 {
				if err := grub.RemoveEntry(); err != nil {
					t.Fatal(err)
				}
			}
			got := "-"
			if fileExists(custom) {
				got = readFile(t, custom)
			}
			if diff := cmp.Diff(tc.after, got); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
			checkDir(t, filepath.Dir(custom), "custom.cfg", "grub.cfg", "grubenv")
		})
	}
}

// checkDir makes sure that no temporary file stays.
func checkDir(t *testing.T, dir string, may ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.Contains(" "+strings.Join(may, " ")+" ", " "+entry.Name()+" ") {
			t.Errorf("%s holds %s", dir, entry.Name())
		}
	}
}

func TestDamagedBlock(t *testing.T) {
	for _, tc := range []struct{ name, custom, want string }{
		{"no end", blockBegin + " ###\nmenuentry 'x' {\n}\n", "without the one that ends it"},
		{"no begin", "true\n" + blockEnd + "\n", "without the one before"},
		{"two begins", blockBegin + " ###\n" + blockBegin + " ###\n" + blockEnd + "\n", "a second line"},
		{"two blocks", strings.Repeat(blockBegin+" ###\n"+blockEnd+"\n", 2), "a second line"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root, grub := grubRoot(t)
			custom := filepath.Join(root, "boot/grub/custom.cfg")
			writeFile(t, custom, tc.custom)
			checkError(t, grub.InstallEntry(testEntry()), tc.want)
			checkError(t, grub.RemoveEntry(), tc.want)
			if got := readFile(t, custom); got != tc.custom {
				t.Errorf("custom.cfg changed to %q", got)
			}
		})
	}
}

func TestInstallEntryNeedsStockConfig(t *testing.T) {
	root, grub := grubRoot(t)
	writeFile(t, filepath.Join(root, "boot/grub/grub.cfg"), "linux /vmlinuz\n")
	checkError(t, grub.InstallEntry(testEntry()), "no command")
	checkError(t, grub.SetNextEntry("reimager"), "no command")
	// What is there can still be taken back.
	checkError(t, grub.RemoveEntry(), "")
	checkError(t, grub.ClearNextEntry("reimager"), "")
}

func TestNextEntry(t *testing.T) {
	root, grub := grubRoot(t)
	env := filepath.Join(root, "boot/grub/grubenv")
	before := readFile(t, env)
	for range 2 {
		checkError(t, grub.SetNextEntry("reimager"), "")
	}
	if got, want := readFile(t, env), block(envWarning, "saved_entry=0\n", "next_entry=reimager\n"); got != want {
		t.Errorf("grubenv = %q; want %q", got, want)
	}
	if got, err := grub.NextEntry(); got != "reimager" || err != nil {
		t.Errorf("NextEntry = %q, %v; want reimager", got, err)
	}
	checkError(t, grub.ClearNextEntry("another"), "")
	if got, _ := grub.NextEntry(); got != "reimager" {
		t.Errorf("ClearNextEntry(another) left %q", got)
	}
	checkError(t, grub.ClearNextEntry("reimager"), "")
	if got := readFile(t, env); got != before {
		t.Errorf("grubenv = %q; want %q", got, before)
	}
	checkDir(t, filepath.Dir(env), "grub.cfg", "grubenv")
}

func TestNextEntryOfOthers(t *testing.T) {
	root, grub := grubRoot(t)
	env := filepath.Join(root, "boot/grub/grubenv")
	theirs := block("next_entry=memtest\n")
	writeFile(t, env, theirs)
	err := grub.SetNextEntry("reimager")
	checkError(t, err, `next_entry is already "memtest"`)
	if explained := report.Explain(err); !strings.Contains(explained, "unset next_entry") {
		t.Errorf("no hint in %q", explained)
	}
	checkError(t, grub.ClearNextEntry("reimager"), "")
	if got := readFile(t, env); got != theirs {
		t.Errorf("grubenv = %q; want it unchanged", got)
	}
	// GRUB itself leaves an empty one behind.
	writeFile(t, env, block("next_entry=\n"))
	checkError(t, grub.SetNextEntry("reimager"), "")
}

func TestGrubenvUnusable(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T, file string)
		want string
	}{
		{"missing", func(*testing.T, string) {}, "no such file"},
		{"empty", func(t *testing.T, file string) { writeFile(t, file, "") }, "0 bytes"},
		{"wrong size", func(t *testing.T, file string) { writeFile(t, file, block()+"#") }, "1025 bytes"},
		{"sparse", func(t *testing.T, file string) {
			writeFile(t, file, "")
			if err := os.Truncate(file, EnvSize); err != nil {
				t.Fatal(err)
			}
		}, "sparse"},
		{"a directory", func(t *testing.T, file string) { writeFile(t, file+"/x", "") }, "not a regular file"},
		{"a pipe", func(t *testing.T, file string) {
			if err := syscall.Mkfifo(file, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root, grub := grubRoot(t)
			file := filepath.Join(root, "boot/grub/grubenv")
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			tc.make(t, file)
			err := grub.SetNextEntry("reimager")
			checkError(t, err, tc.want)
			if explained := report.Explain(err); !strings.Contains(explained, "grub-editenv "+file+" create") {
				t.Errorf("no hint in %q", explained)
			}
		})
	}
	t.Run("nothing to clear in a missing one", func(t *testing.T) {
		root, grub := grubRoot(t)
		if err := os.Remove(filepath.Join(root, "boot/grub/grubenv")); err != nil {
			t.Fatal(err)
		}
		checkError(t, grub.ClearNextEntry("reimager"), "")
	})
}

// TestGrubenvOnESP has the symlink of Red Hat on UEFI.
func TestGrubenvOnESP(t *testing.T) {
	for _, link := range []string{"../efi/EFI/redhat/grubenv", "/boot/efi/EFI/redhat/grubenv"} {
		root := t.TempDir()
		file := filepath.Join(root, "boot/efi/EFI/redhat/grubenv")
		writeFile(t, filepath.Join(root, "boot/grub2/grub.cfg"), stockConfig)
		writeFile(t, file, block())
		if err := os.Symlink(link, filepath.Join(root, "boot/grub2/grubenv")); err != nil {
			t.Fatal(err)
		}
		grub, err := FindGRUB(root)
		if err != nil {
			t.Fatal(err)
		}
		checkError(t, grub.SetNextEntry("reimager"), "")
		if got := readFile(t, file); got != block("next_entry=reimager\n") {
			t.Errorf("%s: the file behind it is %q", link, got)
		}
		if got, err := os.Readlink(filepath.Join(root, "boot/grub2/grubenv")); got != link || err != nil {
			t.Errorf("link = %q, %v; want %q", got, err, link)
		}
	}
}

func TestReplaceKeepsModeAndOwner(t *testing.T) {
	root, grub := grubRoot(t)
	file := filepath.Join(root, "boot/grub/grubenv")
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	want := uint32(os.Getuid())
	if os.Geteuid() == 0 {
		want = 4711
		if err := os.Chown(file, int(want), 4712); err != nil {
			t.Fatal(err)
		}
	}
	// A run that was cut short left this.
	writeFile(t, filepath.Join(root, "boot/grub/.reimager.grubenv"), "half")
	checkError(t, grub.SetNextEntry("reimager"), "")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	if info.Mode() != 0o640 || stat.Uid != want {
		t.Errorf("mode %v, owner %d; want %v, %d", info.Mode(), stat.Uid, fs.FileMode(0o640), want)
	}
	checkDir(t, filepath.Dir(file), "grub.cfg", "grubenv")
}
