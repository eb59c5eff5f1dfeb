package boot

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseFirstEntry(t *testing.T) {
	stock := func(name string) string {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const own = "set font=x\nmenuentry 'One' --class a {\n\tlinux /vmlinuz root=UUID=1 ro\n\tinitrd /a.img /b.img\n}\nmenuentry 'Two' {\n linux /two\n}\n"
	for _, tt := range []struct {
		name, config string
		want         FirstEntry
		err          string
	}{
		{"Debian 12", stock("debian12-grub.cfg"), FirstEntry{}, ""},
		{"Debian 13", stock("debian13-grub.cfg"), FirstEntry{}, ""},
		{"its own filesystem", own, FirstEntry{"", "/vmlinuz", []string{"/a.img", "/b.img"}, "root=UUID=1 ro"}, ""},
		{"no initrd, quotes, variables", "vt=x=7\nmenuentry x {\nsearch --no-floppy -u --set=root \"ab-c\"\nlinuxefi '/a b' \"c d\"$nothing ${vt} $unset e\\ f # g\n}\n",
			FirstEntry{"ab-c", "/a b", nil, "c d x=7 e f"}, ""},
		{"memtest first", "menuentry m {\nlinux16\n}\nmenuentry x {\nlinux16 /k\ninitrd16 /i\n}\n", FirstEntry{"", "/k", []string{"/i"}, ""}, ""},
		{"in a submenu", "submenu 's' {\nmenuentry 'x' {\nlinux /k\n}\n}\n", FirstEntry{"", "/k", nil, ""}, ""},
		{"search with a value", "menuentry x {\nsearch --fs-uuid=ab-c --set=root\nlinux /k\n}\n", FirstEntry{"ab-c", "/k", nil, ""}, ""},
		{"search with options last", "menuentry x {\nsearch -u ab-c --set=root --no-floppy\nlinux /k\n}\n", FirstEntry{"ab-c", "/k", nil, ""}, ""},
		{"search by label", "menuentry x {\nsearch --label --set=root ab-c\nlinux /k\n}\n", FirstEntry{"", "/k", nil, ""}, ""},
		{"Red Hat", "insmod blscfg\nblscfg\n", FirstEntry{}, "no menu entry"},
		{"empty", "", FirstEntry{}, "no menu entry"},
		{"other device", "menuentry x {\nlinux (hd0,1)/k\n}\n", FirstEntry{}, "no plain path"},
		{"out of it", "menuentry x {\nlinux /../k\n}\n", FirstEntry{}, "no plain path"},
		{"not understood", "menuentry x {\nlinux /k; initrd /i\n}\n", FirstEntry{}, "is not understood"},
		{"open quotation", "menuentry x {\nlinux /k 'a\n}\n", FirstEntry{}, "no end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseFirstEntry(tt.config)
			checkError(t, err, tt.err)
			if err != nil {
				return
			}
			if strings.HasPrefix(tt.name, "Debian") {
				if !strings.HasPrefix(got.Kernel, "/boot/vmlinuz-6.") || len(got.Initrds) != 1 || !strings.HasPrefix(got.Initrds[0], "/boot/initrd.img-6.") ||
					len(got.FSUUID) != 36 || !strings.Contains(got.Cmdline, "root=UUID="+got.FSUUID+" ro") {
					t.Errorf("ParseFirstEntry = %+v; want Debian's kernel, initrd and root", got)
				}
				return
			}
			if diff := cmp.Diff(&tt.want, got); diff != "" {
				t.Errorf("ParseFirstEntry (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseFirstEntry(f *testing.F) {
	for _, name := range []string{"debian12-grub.cfg", "debian13-grub.cfg"} {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("menuentry x {\nlinux /k \"$a\\\n")
	f.Fuzz(func(t *testing.T, config string) {
		if e, err := ParseFirstEntry(config); err == nil && (!strings.HasPrefix(e.Kernel, "/") || hasControl(e.Cmdline)) {
			t.Errorf("ParseFirstEntry(%q) = %+v", config, e)
		}
	})
}
