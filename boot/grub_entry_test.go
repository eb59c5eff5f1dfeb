package boot

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRender(t *testing.T) {
	got, err := testEntry().Render()
	if err != nil {
		t.Fatal(err)
	}
	want := `insmod part_msdos
insmod part_gpt
insmod ext2
set reimager_gate=
set reimager_run=
set reimager_berth=
set reimager_disk=
if search --no-floppy --fs-uuid --set=reimager_disk '0f1e2d3c-0000-4000-8000-123456789abc'; then
	load_env --file "(${reimager_disk})"'/boot/reimager/gate' reimager_gate reimager_run reimager_berth
fi
if [ "${grub_platform}" = pc -a "${reimager_gate}" = prove -a "${reimager_run}" = 'RUN7' ]; then
	insmod loadenv
	set reimager_gate=tried
	save_env --file "(${reimager_disk})"'/boot/reimager/gate' reimager_gate
	set reimager_gate=
	load_env --file "(${reimager_disk})"'/boot/reimager/gate' reimager_gate
	insmod regexp
	insmod chain
	set reimager_whole=
	regexp --set=1:reimager_whole '^(hd[0-9]+),' "${reimager_disk}"
	if [ "${reimager_gate}" = tried -a -n "${reimager_whole}" ]; then
		set reimager_root="${root}"
		set root="${reimager_whole}"
		if chainloader "(${reimager_whole})${reimager_berth}+1"; then
			boot
		fi
		set root="${reimager_root}"
	fi
fi
if [ "${reimager_failed}" != 1 -a "${reimager_gate}" = armed -a "${reimager_run}" = 'RUN7' ]; then
menuentry 'Reimage this machine' --id 'reimager' --unrestricted {
	insmod part_msdos
	insmod part_gpt
	insmod ext2
	if search --no-floppy --fs-uuid --set=root '0f1e2d3c-0000-4000-8000-123456789abc'; then
		if linux '/boot/reimager/vmlinuz' 'quiet' 'console=ttyS0,115200'; then
			if initrd '/boot/reimager/initrd'; then
				boot
			fi
			insmod loadenv
			set reimager_gate=tried
			save_env --file "(${root})"'/boot/reimager/gate' reimager_gate
			set reimager_gate=
			load_env --file "(${root})"'/boot/reimager/gate' reimager_gate
			if [ "${reimager_gate}" = tried ]; then
				reboot
			fi
		fi
	fi
	set reimager_failed=1
	export reimager_failed
	configfile $prefix/grub.cfg
	reboot
}
fi
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
}

func TestRenderRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Entry)
		want   string
	}{
		{"id of a submenu", func(e *Entry) { e.ID = "a>b" }, "entry id"},
		{"number as id", func(e *Entry) { e.ID = "0" }, "entry id"},
		{"no title", func(e *Entry) { e.Title = "" }, "title"},
		{"newline in title", func(e *Entry) { e.Title = "a\n}" }, "title"},
		{"no UUID", func(e *Entry) { e.FSUUID = "" }, "UUID"},
		{"option as UUID", func(e *Entry) { e.FSUUID = "a b" }, "UUID"},
		{"tmpfs", func(e *Entry) { e.FSType = "tmpfs" }, `"tmpfs"`},
		{"relative kernel", func(e *Entry) { e.Kernel = "vmlinuz" }, "not absolute"},
		{"dots in initrd", func(e *Entry) { e.Initrd = "/boot/../initrd" }, "not absolute and clean"},
		{"no gate", func(e *Entry) { e.Gate = "" }, "not absolute and clean"},
		{"no run", func(e *Entry) { e.RunID = "" }, "run id"},
		{"quote in run", func(e *Entry) { e.RunID = "a'b" }, "expected letters and digits"},
		{"quote in parameter", func(e *Entry) { e.Cmdline = []string{`a="b c"`} }, "has a quote"},
		{"backslash in parameter", func(e *Entry) { e.Cmdline = []string{`a\b`} }, "a backslash"},
		{"newline in parameter", func(e *Entry) { e.Cmdline = []string{"a\nb"} }, "control character"},
		{"empty parameter", func(e *Entry) { e.Cmdline = []string{""} }, "is empty"},
		{"one byte too long", func(e *Entry) { e.Cmdline = []string{strings.Repeat("x", longestParameter(*e)+1)} }, "2048 bytes"},
		{"as long as it may be", func(e *Entry) { e.Cmdline = []string{strings.Repeat("x", longestParameter(*e))} }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := testEntry()
			tc.change(&e)
			_, err := e.Render()
			checkError(t, err, tc.want)
		})
	}
}

func longestParameter(e Entry) int {
	return kernelCmdlineMax - len("BOOT_IMAGE="+e.Kernel+" ")
}

// awkwardEntry has every character that a script could trip over.
func awkwardEntry() Entry {
	e := testEntry()
	e.Title = `It's "ours": $5 \ {now} ; <&> #1 é`
	e.Kernel = `/a dir/o'clock $HOME "x" \n/vmlinuz;#*?[a]`
	e.Initrd = `/a dir/}initrd{`
	e.Gate = `/a dir/'gate' $root "x"`
	e.Cmdline = []string{"a=$b", "c=d e", "f={g};h", "i=#j", "k=*?", "l=<m>|&"}
	return e
}

func TestRenderIsGRUBScript(t *testing.T) {
	needTool(t, "grub-script-check")
	for name, e := range map[string]Entry{"plain": testEntry(), "awkward": awkwardEntry()} {
		body, err := e.Render()
		if err != nil {
			t.Fatal(err)
		}
		script := filepath.Join(t.TempDir(), name)
		writeFile(t, script, body)
		run(t, "grub-script-check", script)
		// The checker does find errors.
		if strings.Count(body, "'")%2 != 0 {
			t.Errorf("%s: odd number of single quotes", name)
		}
	}
}
