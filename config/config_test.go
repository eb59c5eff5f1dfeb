package config

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const classic = `
[machine]
modules = ["ahci", "ext4"]
device_timeout = "5s"

[image]
source = "/dev/sda5:/rhel7.img.bz2"

[trust]
signature = "if-present"

[target]
disk = "/dev/sda"

[old]
root = "/dev/sda2"
mounts = { "/kiosk" = "/dev/sda6" }

[new]
root = "partition 2"
mounts = { "/kiosk" = "partition 6" }
log_dir = "/kiosk/log"

[console]
diagnosis = ["tty2", "tty3"]
`

func TestParseClassic(t *testing.T) {
	got, err := Parse("reimager.toml", []byte(classic))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Machine.Modules, want.Machine.DeviceTimeout = Modules{Names: []string{"ahci", "ext4"}}, Duration{5 * time.Second}
	want.Image.Source = Source{Device{ByPath, "/dev/sda5"}, "/rhel7.img.bz2"}
	want.Trust.Signature = "if-present"
	want.Target.Disk = Disk{DiskByPath, "/dev/sda"}
	want.Old = Old{Root: Device{ByPath, "/dev/sda2"}, Mounts: map[string]Device{"/kiosk": {ByPath, "/dev/sda6"}}}
	want.New = New{Root: Device{ByNumber, "2"}, Mounts: map[string]Device{"/kiosk": {ByNumber, "6"}}, LogDir: "/kiosk/log"}
	want.Console.Diagnosis = []string{"tty2", "tty3"}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestModules(t *testing.T) {
	for value, want := range map[string]Modules{
		`"all-storage"`:     {Set: "all-storage"},
		`["ahci"]`:          {Names: []string{"ahci"}},
		`"./kiosk"`:         {File: "./kiosk"},
		`"kiosk-g3.json"`:   {File: "kiosk-g3.json"},
		`"/srv/kiosk.json"`: {File: "/srv/kiosk.json"},
	} {
		c, err := Parse("f.toml", []byte("[machine]\nmodules = "+value+"\n"))
		if err != nil {
			t.Errorf("modules = %s: %v", value, err)
			continue
		}
		if diff := cmp.Diff(want, c.Machine.Modules); diff != "" {
			t.Errorf("modules = %s (-want +got):\n%s", value, diff)
		}
	}
}

func TestParseEmptyIsDefault(t *testing.T) {
	got, err := Parse("reimager.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("Parse(nothing) (-want +got):\n%s", diff)
	}
}

// The example of the documentation is a valid file that says nothing but the defaults,
// except where it shows something else.
func TestDocumentedExample(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```toml\n")
	example, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("docs/configuration.md has no toml example")
	}
	got, err := Parse("docs/configuration.md", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Image, want.Old = got.Image, got.Old
	want.New.Root, want.New.Mounts = got.New.Root, got.New.Mounts
	want.Console.Diagnosis, want.Machine.Compatible = got.Console.Diagnosis, got.Machine.Compatible
	want.Console.Texts = got.Console.Texts
	want.Report.Command = got.Report.Command
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("the documented defaults are not the defaults (-want +got):\n%s", diff)
	}
}

// The second example of the documentation shows hooks and rewrites.
func TestDocumentedHooks(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := strings.Split(string(text), "```toml\n")
	if len(examples) < 3 {
		t.Fatal("docs/configuration.md has no second toml example")
	}
	example, _, _ := strings.Cut(examples[2], "```")
	got, err := Parse("docs/configuration.md", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Hooks = []Hook{{
		When: AfterRestore, Run: []string{"/usr/sbin/update-grub"}, Timeout: Timeout{2 * time.Minute},
		OnFailure: Report, Env: map[string]string{"GRUB_DISABLE_OS_PROBER": "true"},
	}}
	want.Rewrites = []Rewrite{
		{File: "/etc/hosts", Match: Pattern{`^127\.0\.1\.1\s`}, Replace: Template{"127.0.1.1 ${hostname}"}, Missing: MissingAppend, OnFailure: Report},
		{File: "/etc/fstab", Match: Pattern{`^UUID=\S+(\s+/\s.*)`}, Replace: Template{"UUID=${root_uuid}$1"}, Missing: MissingRefuse, OnFailure: Report},
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("the documented hooks (-want +got):\n%s", diff)
	}
	// What the example says in so many words are the defaults, where there are any.
	short := "[[hook]]\nrun = [\"/usr/sbin/update-grub\"]\nenv = { GRUB_DISABLE_OS_PROBER = \"true\" }\n"
	if got, err = Parse("short.toml", []byte(short)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Hooks, got.Hooks); diff != "" {
		t.Errorf("the documented defaults of [[hook]] are not the defaults (-want +got):\n%s", diff)
	}
}

func TestTemplateParts(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []Part
	}{
		{"", []Part{{}}},
		{"a", []Part{{Text: "a"}}},
		{"$1x${2}0", []Part{{}, {Ref: "1"}, {Text: "x"}, {Ref: "2"}, {Text: "0"}}},
		{"$$1", []Part{{}, {Text: "$"}, {Text: "1"}}},
		{"${hostname}}", []Part{{}, {Ref: "hostname"}, {Text: "}"}}},
	} {
		got, err := Template{tt.text}.Parts()
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("Parts(%q) = %v (-want +got):\n%s", tt.text, err, diff)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "[machine]\nmodlues = \"classic\"\n", `f.toml:2:1: unknown key "machine.modlues"`},
		{"two unknown keys", "[machine]\na = 1\n[x]\nb = 2\n", `f.toml:3:2: unknown key "x"`},
		{"wrong type", "[image]\nsource = 5\n", "f.toml:2:1:"},
		{"wrong type of list", "[machine]\nmodules = 5\n", "f.toml:2"},
		{"unknown set", "[machine]\nmodules = \"all\"\n", `expected "classic"`},
		{"syntax", "[machine\n", "f.toml:1:"},
		{"source without path", "[image]\nsource = \"/dev/sda5\"\n", "expected DEVICE:/path"},
		{"source climbs", "[image]\nsource = \"/dev/sda5:/a/../b\"\n", `without ".."`},
		{"bad disk", "[target]\ndisk = \"first\"\n", "f.toml:2:8:"},
		{"bad partition", "[new]\nroot = \"partition 0\"\n", "from 1 to 255"},
		{"bad choice", "[trust]\nsignature = \"never\"\n", "trust.signature"},
		{"lifeboat", "[power_cut]\nlifeboat = \"always\"\n", "expected one of"},
		{"berth without a lifeboat", "[power_cut]\nlifeboat = \"off\"\nberth = \"/dev/sda4\"\n", `but power_cut.lifeboat = "off"`},
		{"berth", "[power_cut]\nberth = \"sda4\"\n", "expected /dev/NAME"},
		{"log_dir", "[new]\nlog_dir = \"var/log\"\n", "new.log_dir"},
		{"mount on root", "[new]\nmounts = { \"/\" = \"partition 1\" }\n", "below /"},
		{"language", "[console]\nlanguage = \"xx\"\n", `language "xx": expected one of ["de"`},
		{"text", "[console]\ntexts = { titel = \"x\" }\n", `text "titel" is not known`},
		{"details", "[console]\ndetails = \"tty1\"\n", "console.details"},
		{"details without tty", "[console]\ndetails = \"4\"\n", "console.details"},
		{"shell on the page", "[console]\ndiagnosis = [\"tty1\"]\n", "tty1 has the page"},
		{"shell on the log", "[console]\ndiagnosis = [\"tty4\"]\n", "tty4 has the log"},
		{"tty", "[console]\ndiagnosis = [\"/dev/tty2\"]\n", "console.diagnosis"},
		{"source by number", "[image]\nsource = \"partition 5:/x\"\n", "image.source"},
		{"old root by number", "[old]\nroot = \"partition 2\"\n", "of which disk"},
		{"hook when", "[[hook]]\nwhen = \"later\"\n", `hook 1: when = "later": expected one of`},
		{"hook on_failure", "[[hook]]\non_failure = \"x\"\n", `hook 1: on_failure = "x"`},
		{"hook timeout", "[[hook]]\ntimeout = \"0s\"\n", `f.toml:2:11: "0s": expected more than nothing`},
		{"hook timeout of a week", "[[hook]]\ntimeout = \"168h\"\n", `at most 24h`},
		{"hook timeout number", "[[hook]]\ntimeout = 5\n", `f.toml:2:1:`},
		{"hook key", "[[hook]]\nruns = [\"/a\"]\n", `f.toml:2:1: unknown key "hook.runs"`},
		{"hook without program", "[[hook]]\n", `hook 1: run = []`},
		{"hook as text", "[[hook]]\nrun = \"/bin/true\"\n", `f.toml:2:`},
		{"hook relative", "[[hook]]\nrun = [\"/bin/true\"]\n[[hook]]\nrun = [\"update-grub\"]\n", `hook 2: run`},
		{"hook NUL", "[[hook]]\nrun = [\"/bin/x\", \"a\\u0000b\"]\n", `NUL`},
		{"hook env", "[[hook]]\nrun = [\"/bin/x\"]\nenv = { \"A=B\" = \"c\" }\n", `env: "A=B"`},
		{"rewrite pattern", "[[rewrite]]\nfile = \"/a\"\nmatch = \"(\"\n", "f.toml:3:9: \"(\": error parsing"},
		{"rewrite empty pattern", "[[rewrite]]\nfile = \"/a\"\nmatch = \"\"\n", "f.toml:3:9:"},
		{"rewrite without pattern", "[[rewrite]]\nfile = \"/a\"\n", "rewrite 1: match is missing"},
		{"rewrite reference", "[[rewrite]]\nreplace = \"$x\"\n", `f.toml:2:11: "$x": expected $1`},
		{"rewrite open brace", "[[rewrite]]\nreplace = \"${x\"\n", `f.toml:2:11:`},
		{"rewrite two lines", "[[rewrite]]\nreplace = \"a\\nb\"\n", "expected one line"},
		{"rewrite no such group", "[[rewrite]]\nfile = \"/a\"\nmatch = \"(a)\"\nreplace = \"$2\"\n", "rewrite 1: replace = \"$2\": ${2}: the pattern has no such group"},
		{"rewrite huge group", "[[rewrite]]\nfile = \"/a\"\nmatch = \"(a)\"\nreplace = \"$99999999999999999999\"\n", "no such group"},
		{"rewrite no such variable", "[[rewrite]]\nfile = \"/a\"\nmatch = \"a\"\nreplace = \"${host}\"\n", "no such group"},
		{"rewrite group hides variable", "[[rewrite]]\nfile = \"/a\"\nmatch = \"(?P<hostname>a)\"\n", "name of a variable"},
		{"rewrite append group", "[[rewrite]]\nfile = \"/a\"\nmatch = \"(a)\"\nreplace = \"$1\"\nmissing = \"append\"\n", "cannot make it"},
		{"rewrite append nothing", "[[rewrite]]\nfile = \"/a\"\nmatch = \"a\"\nmissing = \"append\"\n", "rewrite 1: replace is empty"},
		{"rewrite file", "[[rewrite]]\nfile = \"/etc/../a\"\nmatch = \"a\"\n", "rewrite 1: file"},
		{"rewrite missing", "[[rewrite]]\nmissing = \"no\"\n", "rewrite 1: missing = \"no\""},
		{"timeout", "[machine]\ndevice_timeout = \"soon\"\n", "30s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("f.toml", []byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse(%q) = %v; want an error with %q", tt.text, err, tt.want)
			}
		})
	}
}

func TestParseDiskAndDevice(t *testing.T) {
	for s, want := range map[string]string{
		"holds-old-root": "holds-old-root", "/dev/sda": "/dev/sda", "serial=S 1": "serial=S 1",
		"/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001": "serial=QM00001", "/dev/disk/by-id/wwn-0x5000c500a": "wwn=0x5000c500a",
	} {
		got, err := ParseDisk(s)
		if err != nil || got.String() != want {
			t.Errorf("ParseDisk(%q) = %v, %v; want %s", s, got, err, want)
		}
	}
	for s, want := range map[string]string{
		"/dev/sda5": "/dev/sda5", "UUID=ab-c": "UUID=ab-c", `LABEL="x y"`: "LABEL=x y",
		"/dev/disk/by-partuuid/1-02": "PARTUUID=1-02", "partition 6": "partition 6",
	} {
		got, err := ParseDevice(s)
		if err != nil || got.String() != want {
			t.Errorf("ParseDevice(%q) = %v, %v; want %s", s, got, err, want)
		}
	}
}

func TestJobRoundTripAndIdentity(t *testing.T) {
	j := &Job{
		Format: JobFormat, RunID: "ab", Armed: time.Unix(1, 0).UTC(), OldRoot: "u",
		Image:  JobImage{Source: Source{Device{ByUUID, "x"}, "/new image.bz2"}, Bytes: 5, SHA256: "00"},
		Target: DiskIdentity{Serial: "s", Bytes: 7, PTUUID: "p"},
		Boot:   &JobKernel{Kernel: Source{Device{ByUUID, "x"}, "/reimager/vmlinuz"}, Initrd: Source{Device{ByUUID, "x"}, "/reimager/initrd"}, Cmdline: "quiet panic=10"},
	}
	text, err := j.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseJob("job", text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(j, got); diff != "" {
		t.Errorf("ParseJob(Encode) (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", "{}", `{"format":3,"run_id":"a"}`, strings.Replace(string(text), `"format": 3`, `"format": 2`, 1), string(text) + "x", `{"format":1,"x":1}`} {
		if _, err := ParseJob("job", []byte(bad)); err == nil {
			t.Errorf("ParseJob(%q) = nil error", bad)
		}
	}
	for _, tt := range []struct {
		found DiskIdentity
		want  string
	}{
		{DiskIdentity{Serial: "s", Bytes: 7, PTUUID: "p", WWN: "any"}, ""},
		{DiskIdentity{Serial: "t", Bytes: 7, PTUUID: "p"}, `serial "t", expected "s"`},
		{DiskIdentity{Serial: "s", Bytes: 8, PTUUID: "p"}, "size 8 bytes, expected 7"},
		{DiskIdentity{Serial: "s", Bytes: 7}, `partition-table id "", expected "p"`},
	} {
		if got := j.Target.Differs(tt.found); got != tt.want {
			t.Errorf("Differs(%+v) = %q; want %q", tt.found, got, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(classic))
	f.Add([]byte("[machine]\nmodules = \"all-storage\"\n"))
	f.Add([]byte("[[hook]]\nrun = [\"/a\"]\ntimeout = \"1s\"\n[[rewrite]]\nfile = \"/f\"\nmatch = \"(a)\"\nreplace = \"$1${hostname}\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("f.toml", text)
		if err == nil && c.Machine.DeviceTimeout.Duration <= 0 {
			t.Errorf("Parse(%q) accepted a timeout of %s", text, c.Machine.DeviceTimeout)
		}
	})
}
