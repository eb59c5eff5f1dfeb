package lab

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"reimager/report"
	"reimager/vm"
)

// needDebian says loudly what is missing.
func needDebian(t *testing.T) Cache {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and boots Debian systems; run without -short")
	}
	needRoot(t)
	for _, tool := range []string{"mmdebstrap", "qemu-system-x86_64", "fstrim"} {
		if _, err := vm.FindProgram(tool); err != nil {
			t.Fatalf("%s is missing, no Debian was built and nothing was tested: apt-get install %s %s", tool, Packages, DebianPackages)
		}
	}
	cache, err := OpenCache()
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

// debianProbe is started by reimager-demo.service.
const debianProbe = `#!/bin/sh
uname -r
cat /etc/machine-id
stat -c '%n %U %u %a' /var/lib/atm
awk '$2 == "/" { print "ROOT", $1, $3 }' /proc/mounts
wc -l </proc/swaps | xargs echo SWAPS
systemctl --failed --no-legend | wc -l | xargs echo UNITS FAILED
echo PROBE END
`

func TestDebianBoots(t *testing.T) {
	cache := needDebian(t)
	for _, tc := range []struct {
		spec DebianSpec
		want []string
	}{
		{OldDebian("bookworm"), []string{"/var/lib/atm atm 990 750", "ROOT /dev/sda1 ext4", "SWAPS 2", "UNITS FAILED 0"}},
		{NewDebian(), []string{"/var/lib/atm atm 880 750", "ROOT /dev/sda2 ext4", "SWAPS 2", "UNITS FAILED 0"}},
	} {
		t.Run(tc.spec.Suite, func(t *testing.T) {
			path, built := copyDebian(t, cache, tc.spec)
			if err := InjectFiles(t.Context(), path, tc.spec.RootPartition, Tree{Text("root/run", 0o755, debianProbe)}); err != nil {
				t.Fatal(err)
			}
			guest, ctx := startVM(t, vm.Config{Drives: []vm.Drive{{Path: path}}, NoReboot: true})
			// Either may come first: the unit waits for no login prompt.
			prompt := regexp.QuoteMeta(tc.spec.LoginPrompt())
			if _, err := guest.WaitForMatch(ctx, regexp.MustCompile(`(?s)`+prompt+`.*PROBE END|PROBE END.*`+prompt)); err != nil {
				t.Fatal(err)
			}
			console := string(guest.Console.Bytes())
			for _, want := range append(tc.want, built.Kernel.Version, tc.spec.MachineID) {
				if !strings.Contains(console, want) {
					t.Errorf("console lacks %q:\n%s", want, guest.Console.Last(60))
				}
			}
			for _, line := range guest.Console.Lines() {
				if strings.Contains(line.Text, tc.spec.LoginPrompt()) {
					t.Logf("login prompt after %.1f s", line.At.Seconds())
				}
			}
		})
	}
}

func copyDebian(t *testing.T, cache Cache, spec DebianSpec) (string, Debian) {
	t.Helper()
	start := time.Now()
	built, err := BuildDebian(t.Context(), cache, spec)
	if err != nil {
		t.Fatal(report.Explain(err))
	}
	t.Logf("built, or found in the cache, in %.1f s", time.Since(start).Seconds())
	path := filepath.Join(t.TempDir(), "disk")
	if err := CopySparse(path, built.Disk.Path); err != nil {
		t.Fatal(err)
	}
	return path, built
}

// TestDebianIdentities compares what must differ between the two systems, or
// no test could see that it was put back.
func TestDebianIdentities(t *testing.T) {
	cache := needDebian(t)
	specs := []DebianSpec{OldDebian("bookworm"), NewDebian()}
	for _, file := range []string{
		"/etc/machine-id", "/etc/hostname", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key.pub", "/etc/fstab", "/boot/grub/grub.cfg",
	} {
		var contents []string
		for _, spec := range specs {
			built, err := BuildDebian(t.Context(), cache, spec)
			if err != nil {
				t.Fatal(report.Explain(err))
			}
			content, err := ReadFile(t.Context(), built.Disk.Path, spec.RootPartition, file)
			if err != nil {
				t.Fatal(err)
			}
			contents = append(contents, string(content))
		}
		if contents[0] == contents[1] || contents[0] == "" || contents[1] == "" {
			t.Errorf("%s: %q and %q; want two different contents", file, contents[0], contents[1])
		}
		if strings.HasSuffix(file, "grub.cfg") && !strings.Contains(contents[0], "next_entry") {
			t.Errorf("%s does not boot an entry once:\n%s", file, contents[0])
		}
	}
}

func TestDebianImage(t *testing.T) {
	cache := needDebian(t)
	start := time.Now()
	image, err := DebianImage(t.Context(), cache, NewDebian())
	if err != nil {
		t.Fatal(report.Explain(err))
	}
	info, err := os.Stat(image.Bzip2)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB compressed in, or found after, %.1f s", info.Size()/mib, time.Since(start).Seconds())
	if limit := int64(400 * mib); info.Size() > limit {
		t.Errorf("compressed image has %d bytes; want at most %d: its free space should be zero", info.Size(), limit)
	}
	if _, err := resolveModules(image.Kernel, []string{"ahci", "sd_mod", "ext4"}, nil); err != nil {
		t.Error(err)
	}
}

func TestDebianLayout(t *testing.T) {
	type part struct {
		Number       int
		Offset, Size int64
		FS           FS
	}
	plain := func(root int) DebianSpec {
		return DebianSpec{Suite: "trixie", DiskID: "0x1", SizeMiB: 1024, SwapMiB: 128, RootPartition: root}
	}
	for _, tc := range []struct {
		spec DebianSpec
		want []part
	}{
		{plain(1), []part{{1, 1 * mib, 895 * mib, Ext4}, {2, 896 * mib, 128 * mib, Swap}}},
		{plain(2), []part{{1, 1 * mib, 128 * mib, Swap}, {2, 129 * mib, 895 * mib, Ext4}}},
		{plain(1).OnUEFI(), []part{{1, 1 * mib, 64 * mib, FAT}, {2, 65 * mib, 894 * mib, Ext4}, {3, 959 * mib, 128 * mib, Swap}}},
		{plain(2).OnUEFI(), []part{{1, 1 * mib, 64 * mib, FAT}, {2, 65 * mib, 128 * mib, Swap}, {3, 193 * mib, 894 * mib, Ext4}}},
	} {
		parts, err := layOut(tc.spec.disk(""))
		if err != nil {
			t.Fatal(err)
		}
		var got []part
		for _, p := range parts {
			got = append(got, part{p.Number, p.Offset, p.Size, p.FS})
			want := tc.spec.FSUUID(p.Number)
			if p.FS == FAT {
				want = tc.spec.espUUID()
			}
			if p.UUID != want {
				t.Errorf("root on %d: UUID of %d = %s; want %s", tc.spec.RootPartition, p.Number, p.UUID, want)
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("root on %d (-want +got):\n%s", tc.spec.RootPartition, diff)
		}
	}
}

func TestDebianKey(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	seen := map[Key]string{}
	add := func(name string, spec DebianSpec, wantNew bool) {
		key, err := spec.key()
		if err != nil {
			t.Fatal(err)
		}
		if _, old := seen[key]; old == wantNew {
			t.Errorf("%s: key %s is that of %q; want a new one: %v", name, key, seen[key], wantNew)
		}
		seen[key] = name
	}
	spec := OldDebian("bookworm")
	add("plain", spec, true)
	add("plain again", OldDebian("bookworm"), false)
	spec.Files = Tree{{Path: "file", Source: source}}
	add("with a file", spec, true)
	if err := os.WriteFile(source, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	add("with other content", spec, true)
	spec.Packages = []string{"sudo"}
	add("with a package", spec, true)
	t.Setenv(debianMirror, "http://mirror.invalid/debian")
	add("from another mirror", spec, true)
}

// Building the systems of the usual test run takes ten minutes, which a cache that is
// carried from run to run saves: who changes these keys should know it.
func TestUsualDebianKeys(t *testing.T) {
	t.Setenv(debianMirror, "")
	for _, tc := range []struct {
		spec DebianSpec
		want Key
	}{
		{OldDebian("bookworm"), "4d6f845d026d1848bfe3"},
		{NewDebian(), "8c5b8148e866cad12292"},
	} {
		if got, err := tc.spec.key(); err != nil || got != tc.want {
			t.Errorf("key of %s = %s, %v; want %s, or this line changed with what it is made from", tc.spec.Suite, got, err, tc.want)
		}
	}
}

func TestDebianSuitesAndFirmwareDiffer(t *testing.T) {
	seen := map[Key]bool{}
	for _, suite := range []string{"bullseye", "bookworm", "trixie"} {
		for _, spec := range []DebianSpec{OldDebian(suite), OldDebian(suite).OnUEFI()} {
			key, err := spec.key()
			if err != nil {
				t.Fatal(err)
			}
			if seen[key] {
				t.Errorf("%s, UEFI %v: key %s is another's, too", suite, spec.UEFI(), key)
			}
			seen[key] = true
		}
	}
}

func TestDebianRefuses(t *testing.T) {
	bad := OldDebian("bookworm")
	bad.RootPartition = 3
	odd := OldDebian("bookworm")
	odd.Users = []User{{"at m", "/", "/bin/sh", 7}}
	onESP := OldDebian("bookworm").OnUEFI()
	onESP.RootPartition = DebianESP
	for _, tc := range []struct {
		spec DebianSpec
		want string
	}{{bad, "root partition 3, want 1 or 2"}, {onESP, "root partition 1, want 2 or 3"}, {odd, `add user "at m"`}} {
		_, err := BuildDebian(t.Context(), Cache{dir: t.TempDir()}, tc.spec)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("BuildDebian = %v; want %q", err, tc.want)
		}
	}
}

func TestExplainBootstrap(t *testing.T) {
	for _, tc := range []struct{ said, want string }{
		{"W: GPG error: http://mirror.example/debian trixie InRelease: NO_PUBKEY 762F67A0B2C39DE4", "debian-archive-keyring"},
		{"E: The repository 'http://mirror.example/debian trixie InRelease' is not signed.", "debian-archive-keyring"},
		{"Err:1 http://mirror.example/debian trixie InRelease\n  Could not resolve 'mirror.example'", debianMirror},
		{"E: The repository 'http://mirror.example/debian bullseye Release' does not have a Release file.", "no mirror that was asked has trixie"},
		{"E: Failed to fetch http://mirror.example/debian/dists/trixie/InRelease  404  Not Found", "no mirror that was asked has trixie"},
		{"dpkg: error processing package", ""},
	} {
		got := report.Explain(explainBootstrap(errors.New(tc.said), "trixie"))
		_, hint, _ := strings.Cut(got, "\nhint: ")
		if (tc.want == "") != (hint == "") || !strings.Contains(hint, tc.want) {
			t.Errorf("explainBootstrap(%q): hint %q; want one with %q", tc.said, hint, tc.want)
		}
	}
}

// A suite that the mirrors have dropped comes from the archive; an error names both.
func TestDroppedSuite(t *testing.T) {
	for _, tc := range []struct{ archive, want string }{
		{"exit 0", ""},
		{"echo 'E: Could not connect to archive.debian.org' >&2; exit 25", "does not have a Release file.*from http://archive.debian.org/debian: .*Could not connect"},
	} {
		bin := t.TempDir()
		script := `#!/bin/sh
for last; do :; done
case "$last" in
` + debianArchive + `) ` + tc.archive + ` ;;
esac
echo "E: The repository 'http://mirror.example/debian bullseye Release' does not have a Release file." >&2
exit 25
`
		if err := os.WriteFile(filepath.Join(bin, "mmdebstrap"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		t.Setenv(debianMirror, "")
		dir := t.TempDir()
		err := bootstrap(t.Context(), dir, filepath.Join(dir, "root.tar"), OldDebian("bullseye"))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if (tc.want == "") != (err == nil) || !regexp.MustCompile("(?s)"+tc.want).MatchString(got) {
			t.Errorf("bootstrap = %v; want %q", err, tc.want)
		}
	}
}
