package boot

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
)

// What decides in the grub.cfg of each distribution, as grub-mkconfig or the package
// writes it.
const (
	debianStub = `search.fs_uuid 3c2b1a00-0000-4000-8000-123456789abc root hd0,gpt2
set prefix=($root)'/boot/grub'
configfile $prefix/grub.cfg
`
	// grub2-common of RHEL 9 and Fedora
	redHatStub = `search --no-floppy --root-dev-only --fs-uuid --set=dev 3c2b1a00-0000-4000-8000-123456789abc
set prefix=($dev)/grub2
export $prefix
configfile $prefix/grub.cfg
`
	redHatHeader = `set pager=1
if [ -f ${config_directory}/grubenv ]; then
  load_env -f ${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
fi
`
	// RHEL 7 has entries in grub.cfg, later ones in files.
	linuxefi = "menuentry 'Red Hat Enterprise Linux Server (3.10.0)' --class red --unrestricted $menuentry_id_option 'gnulinux-3.10.0' {\n\tlinuxefi /vmlinuz-3.10.0 root=/dev/sda3\n}\n"
	blscfg   = "insmod blscfg\nblscfg\n"
	custom   = `if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
`
)

const (
	uefi  = "sys/firmware/efi/fw_platform_size"
	entry = "boot/loader/entries/3f2a-5.14.0.conf"
)

// Each distribution's GRUB is found, armed and disarmed where it really reads.
func TestDistributions(t *testing.T) {
	redHat7, redHat8 := redHatHeader+linuxefi+custom, redHatHeader+blscfg+custom
	for _, tc := range []struct {
		name  string
		files map[string]string
		dir   string
		entry string // where ours is
		id    string // what next_entry names
	}{
		{"Debian 11, 12, 13 on a BIOS", map[string]string{"boot/grub/grub.cfg": stockConfig}, "boot/grub", "boot/grub/custom.cfg", "reimager"},
		{"Debian on UEFI", map[string]string{uefi: "64", "boot/grub/grub.cfg": stockConfig, "boot/efi/EFI/debian/grub.cfg": debianStub}, "boot/grub", "boot/grub/custom.cfg", "reimager"},
		{"Debian on UEFI, removable path too", map[string]string{uefi: "64", "boot/grub/grub.cfg": stockConfig, "boot/efi/EFI/debian/grub.cfg": debianStub, "boot/efi/EFI/BOOT/grub.cfg": debianStub}, "boot/grub", "boot/grub/custom.cfg", "reimager"},
		{"UEFI, its partition not mounted", map[string]string{uefi: "64", "boot/grub/grub.cfg": stockConfig}, "boot/grub", "boot/grub/custom.cfg", "reimager"},
		{"RHEL 7 on a BIOS", map[string]string{"boot/grub2/grub.cfg": redHat7}, "boot/grub2", "boot/grub2/custom.cfg", "reimager"},
		{"RHEL 7 on UEFI", map[string]string{uefi: "64", "boot/efi/EFI/redhat/grub.cfg": redHat7}, "boot/efi/EFI/redhat", "boot/efi/EFI/redhat/custom.cfg", "reimager"},
		{"RHEL 8 on UEFI", map[string]string{uefi: "64", "boot/efi/EFI/redhat/grub.cfg": redHat8, entry: "title RHEL\n"}, "boot/efi/EFI/redhat", "boot/efi/EFI/redhat/custom.cfg", "reimager"},
		{"RHEL 9 on a BIOS", map[string]string{"boot/grub2/grub.cfg": redHat8, entry: "title RHEL\n"}, "boot/grub2", "boot/grub2/custom.cfg", "reimager"},
		{"RHEL 9, Fedora on UEFI", map[string]string{uefi: "64", "boot/grub2/grub.cfg": redHat8, "boot/efi/EFI/fedora/grub.cfg": redHatStub, entry: "title Fedora\n"}, "boot/grub2", "boot/grub2/custom.cfg", "reimager"},
		{"entries in files, no custom.cfg", map[string]string{"boot/grub2/grub.cfg": redHatHeader + blscfg, entry: "title Fedora\n"}, "boot/grub2", "boot/loader/entries/~reimager.conf", "~reimager"},
		{"both, and UEFI says which", map[string]string{uefi: "64", "boot/grub/grub.cfg": stockConfig, "boot/grub2/grub.cfg": redHat8, "boot/efi/EFI/fedora/grub.cfg": redHatStub}, "boot/grub2", "boot/grub2/custom.cfg", "reimager"},
		{"two systems, firmware says which", map[string]string{uefi: "64", "boot/grub/grub.cfg": stockConfig, "boot/efi/EFI/debian/grub.cfg": debianStub, "boot/efi/EFI/redhat/grub.cfg": redHat7,
			"sys/firmware/efi/efivars/BootCurrent-" + efiGlobal: "\x06\x00\x00\x00\x0a\x00",
			"sys/firmware/efi/efivars/Boot000A-" + efiGlobal:    "\x07\x00\x00\x00" + loadOption("Red Hat", `\EFI\REDHAT\SHIMX64.EFI`)}, "boot/efi/EFI/redhat", "boot/efi/EFI/redhat/custom.cfg", "reimager"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			for name, content := range tc.files {
				writeFile(t, filepath.Join(root, name), content)
			}
			writeFile(t, filepath.Join(root, tc.dir, "grubenv"), block(envWarning, "saved_entry=0\n"))
			before := snapshot(t, root)
			grub, err := FindGRUB(root)
			if err != nil {
				t.Fatal(err)
			}
			if grub.Dir() != filepath.Join(root, tc.dir) || grub.Beside() != filepath.Join(root, "boot") {
				t.Errorf("Dir = %s, Beside = %s; want %s and boot", grub.Dir(), grub.Beside(), tc.dir)
			}
			for range 2 { // twice is once
				if err := errors.Join(grub.InstallEntry(testEntry()), grub.SetNextEntry("reimager")); err != nil {
					t.Fatal(err)
				}
			}
			if got := readFile(t, filepath.Join(root, tc.entry)); !strings.Contains(got, "/boot/reimager/vmlinuz") {
				t.Errorf("%s: %s", tc.entry, got)
			}
			if got := readFile(t, filepath.Join(root, tc.dir, "grubenv")); !strings.Contains(got, "\nnext_entry="+tc.id+"\n") {
				t.Errorf("grubenv: %q; want next_entry=%s", got, tc.id)
			}
			if next, err := grub.NextEntry(); next != "reimager" || err != nil {
				t.Errorf("NextEntry = %q, %v; want reimager", next, err)
			}
			if err := errors.Join(grub.ClearNextEntry("reimager"), grub.RemoveEntry()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, snapshot(t, root)); diff != "" {
				t.Errorf("after disarming (-want +got):\n%s", diff)
			}
		})
	}
}

// What cannot be told is refused.
func TestDistributionsRefused(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"two systems, and firmware says nothing", map[string]string{uefi: "64", "boot/grub/grub.cfg": stockConfig, "boot/efi/EFI/debian/grub.cfg": debianStub, "boot/efi/EFI/redhat/grub.cfg": redHatHeader}, "both"},
		{"both on a BIOS", map[string]string{"boot/grub/grub.cfg": stockConfig, "boot/grub2/grub.cfg": stockConfig, "boot/efi/EFI/fedora/grub.cfg": redHatStub}, "both"},
		{"a stub that leads away", map[string]string{uefi: "64", "boot/grub/grub.cfg": stockConfig, "boot/efi/EFI/fedora/grub.cfg": redHatStub}, "leads to a grub.cfg that is not here"},
		{"no entries and no custom.cfg", map[string]string{"boot/grub2/grub.cfg": redHatHeader + blscfg}, "no boot loader entries"},
	} {
		root := t.TempDir()
		for name, content := range tc.files {
			writeFile(t, filepath.Join(root, name), content)
		}
		grub, err := FindGRUB(root)
		if err == nil {
			err = grub.CheckConfig()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want an error with %q", tc.name, err, tc.want)
		}
	}
}

// snapshot is each file below root with its content.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// loadOption is a boot entry with a partition and a file in it.
func loadOption(description, file string) string {
	text := func(s string) (b []byte) {
		for _, u := range utf16.Encode([]rune(s + "\x00")) {
			b = binary.LittleEndian.AppendUint16(b, u)
		}
		return b
	}
	node := func(kind, sub byte, data []byte) []byte {
		return append(binary.LittleEndian.AppendUint16([]byte{kind, sub}, uint16(4+len(data))), data...)
	}
	nodes := append(node(4, 1, make([]byte, 38)), node(4, 4, text(file))...)
	nodes = append(nodes, node(0x7f, 0xff, nil)...)
	b := binary.LittleEndian.AppendUint32(nil, 1)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(nodes)))
	return string(append(append(b, text(description)...), nodes...))
}

func FuzzLoaderPath(f *testing.F) {
	f.Add([]byte(loadOption("Red Hat", `\EFI\redhat\shimx64.efi`)))
	f.Add([]byte("\x01\x00\x00\x00\x04\x00\x00\x00\x04\x04\x03\x00"))
	f.Fuzz(func(t *testing.T, option []byte) { _ = loaderPath(option) })
}

func TestLoaderPath(t *testing.T) {
	option := loadOption("Red Hat", `\EFI\redhat\shimx64.efi`)
	if got := loaderPath([]byte(option)); got != `\EFI\redhat\shimx64.efi` {
		t.Errorf("loaderPath = %q", got)
	}
	for n := range len(option) - 4 { // the last node may be cut
		_ = loaderPath([]byte(option[:n]))
	}
}

func TestRenderBLS(t *testing.T) {
	got, err := testEntry().RenderBLS()
	want := `title Reimage this machine
version 0
linux /boot/reimager/vmlinuz
initrd /boot/reimager/initrd
options quiet console=ttyS0,115200
grub_arg --unrestricted
grub_class kernel
`
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("RenderBLS: %v (-want +got):\n%s", err, diff)
	}
	for name, change := range map[string]func(*Entry){
		"variable": func(e *Entry) { e.Cmdline = []string{"a=$kernelopts"} },
		"space":    func(e *Entry) { e.Cmdline = []string{"a=b c"} },
		"path":     func(e *Entry) { e.Kernel = "/a b" },
		"title":    func(e *Entry) { e.Title = "a\nlinux /evil" },
	} {
		e := testEntry()
		change(&e)
		if text, err := e.RenderBLS(); err == nil {
			t.Errorf("%s: RenderBLS = %s", name, text)
		}
	}
}
