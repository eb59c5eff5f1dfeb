package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"reimager/cli"
	"reimager/image"
)

// bzImage is the header of a kernel of a version: Documentation/arch/x86/boot.rst.
func bzImage(version string) string {
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

// rawDisk is an image with one unknown partition.
func rawDisk() string {
	b := make([]byte, 4<<20)
	copy(b, "boot code")
	b[450] = 0x83
	binary.LittleEndian.PutUint32(b[454:], 2048)
	binary.LittleEndian.PutUint32(b[458:], 2048)
	b[510], b[511] = 0x55, 0xaa
	copy(b[1<<20:], strings.Repeat("content ", 1000))
	return string(b)
}

// tool runs a program that `./dev test` installs.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v (`./dev test` installs it)\n%s", name, args, err, out)
	}
	return string(out)
}

func done(t *testing.T, args ...string) string {
	t.Helper()
	status, out, errs := try(args...)
	if status != cli.Done {
		t.Fatalf("imagebuild %q: status %d\n%s", args, status, errs)
	}
	return out
}

// releaseOf packs a release on a build host with a key of its own.
func releaseOf(t *testing.T, more ...string) (s site, release string) {
	t.Helper()
	s = newSite(t)
	done(t, "keygen", "--no-password", "-o", filepath.Join(s.dir, "fleet"))
	done(t, "keygen", "--no-password", "-o", filepath.Join(s.dir, "spare"))
	write(t, s.config, "[machine]\nmodules = [\"ahci\"]\ncompatible = [\"kiosk-g3\"]\n")
	done(t, s.args("--key", filepath.Join(s.dir, "fleet.pub"), "--key", filepath.Join(s.dir, "spare.pub"))...)
	write(t, filepath.Join(s.dir, "vmlinuz"), bzImage("6.1.0-test"))
	write(t, filepath.Join(s.dir, "disk.img"), rawDisk())
	release = filepath.Join(s.dir, "release")
	done(t, append([]string{"pack", filepath.Join(s.dir, "disk.img"), "-o", release, "--kernel", filepath.Join(s.dir, "vmlinuz"), "--initrd", s.out,
		"--compatible", "kiosk-g3", "--version", "2.0", "--counter", "42", "--key", filepath.Join(s.dir, "fleet.key")}, more...)...)
	return s, release
}

// The minisign of the distribution verifies what we sign, and we what it signs.
func TestMinisign(t *testing.T) {
	s, release := releaseOf(t)
	manifest := filepath.Join(release, image.ManifestName)
	if out := tool(t, "minisign", "-V", "-p", filepath.Join(s.dir, "fleet.pub"), "-m", manifest); !strings.Contains(out, "reimager release disk 2.0 counter 42") {
		t.Errorf("minisign -V: %s", out)
	}
	// Its own key, without a password, and ours in its hands.
	theirs := filepath.Join(s.dir, "theirs")
	tool(t, "minisign", "-G", "-W", "-p", theirs+".pub", "-s", theirs+".key")
	for _, secret := range []string{theirs, filepath.Join(s.dir, "fleet")} {
		if err := os.Remove(manifest + image.SignatureSuffix); err != nil {
			t.Fatal(err)
		}
		tool(t, "minisign", "-S", "-H", "-s", secret+".key", "-m", manifest)
		out := done(t, "verify", release, "--key", filepath.Join(s.dir, "spare.pub"), "--key", secret+".pub")
		if !strings.Contains(out, "is whole; signed by") {
			t.Errorf("verify: %s", out)
		}
	}
	// We sign with a key of its.
	again := filepath.Join(s.dir, "again")
	done(t, "pack", filepath.Join(s.dir, "disk.img"), "-o", again, "--key", theirs+".key")
	tool(t, "minisign", "-V", "-p", theirs+".pub", "-m", filepath.Join(again, image.ManifestName))
	// Its signatures without -H are of the old kind.
	if status, _, errs := try("verify", legacy(t, again, theirs), "--key", theirs+".pub"); status != cli.Failed || !strings.Contains(errs, "not prehashed") {
		t.Errorf("verify of a signature that is not prehashed: status %d, %s", status, errs)
	}
}

// legacy signs a release the way minisign did before 0.10.
func legacy(t *testing.T, release, key string) string {
	t.Helper()
	manifest := filepath.Join(release, image.ManifestName)
	tool(t, "minisign", "-S", "-l", "-s", key+".key", "-m", manifest, "-x", manifest+image.SignatureSuffix)
	return release
}

func TestKeygenWithPassword(t *testing.T) {
	dir := t.TempDir()
	name, password, wrong := filepath.Join(dir, "fleet"), filepath.Join(dir, "password"), filepath.Join(dir, "wrong")
	write(t, password, "correct horse\nsecond line\n")
	write(t, wrong, "incorrect horse\n")
	write(t, filepath.Join(dir, "disk.img"), rawDisk())
	done(t, "keygen", "-o", name, "--password-file", password)
	info, err := os.Stat(name + ".key")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("secret key: %v, %v; want mode 0600", info.Mode(), err)
	}
	if status, _, errs := try("keygen", "-o", name, "--password-file", password); status != cli.Failed || !strings.Contains(errs, "exists") {
		t.Errorf("keygen over a key: status %d, %s", status, errs)
	}
	pack := []string{"pack", filepath.Join(dir, "disk.img"), "-o", filepath.Join(dir, "release"), "--key", name + ".key"}
	if status, _, errs := try(append(pack, "--password-file", wrong)...); status != cli.Failed || !strings.Contains(errs, "the password does not fit") {
		t.Errorf("pack with a wrong password: status %d, %s", status, errs)
	}
	done(t, append(pack, "--password-file", password)...)
	done(t, "verify", filepath.Join(dir, "release"), "--key", name+".pub")
}

func TestVerify(t *testing.T) {
	s, release := releaseOf(t)
	// Without a key those of its initrd are taken.
	var v verdict
	if err := json.Unmarshal([]byte(done(t, "verify", "--json", release)), &v); err != nil {
		t.Fatal(err)
	}
	if v.SignedBy == "" || len(v.Warnings) != 0 || v.Counter != 42 {
		t.Errorf("verify: %+v; want it signed, without a warning", v)
	}
	for _, tt := range []struct {
		name, file string
		change     func([]byte) []byte
		want       string
	}{
		{"image", "image.zst", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "image.zst"},
		{"image cut", "image.zst", func(b []byte) []byte { return b[:len(b)-1] }, "bytes, expected"},
		{"map", "image.bmap", func(b []byte) []byte { return bytes.Replace(b, []byte("4096"), []byte("8192"), 1) }, "image.bmap has the SHA-256"},
		{"manifest", "manifest.json", func(b []byte) []byte { return bytes.Replace(b, []byte("42"), []byte("43"), 1) }, "not what was signed"},
		{"signature", "manifest.json.minisig", func([]byte) []byte { return []byte("hello\n") }, "parse signature"},
		{"no signature", "manifest.json.minisig", nil, "there is no signature"},
		{"kernel", "kernel", func(b []byte) []byte { b[0]++; return b }, "kernel has the SHA-256"},
		{"initrd", "initrd", func(b []byte) []byte { return append(b, 0) }, "initrd has"},
		{"no map", "image.bmap", nil, "no such file"},
	} {
		name := filepath.Join(release, tt.file)
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if tt.change == nil {
			err = os.Remove(name)
		} else {
			err = os.WriteFile(name, tt.change(bytes.Clone(good)), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		if status, _, errs := try("verify", release); status != cli.Failed || !strings.Contains(errs, tt.want) {
			t.Errorf("%s: status %d, %s; want an error with %q", tt.name, status, errs, tt.want)
		}
		if err := os.WriteFile(name, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(release, "README"), "hello")
	if out := done(t, "verify", release); !strings.Contains(out, "README is not in the manifest") {
		t.Errorf("verify with a stranger: %s", out)
	}
	if status, _, errs := try("verify", s.dir); status != cli.Failed || !strings.Contains(errs, "there is no manifest.json") {
		t.Errorf("verify of no release: status %d, %s", status, errs)
	}
}

func TestInspectRelease(t *testing.T) {
	_, release := releaseOf(t, "--format", "bz2")
	out := done(t, "inspect", release)
	for _, want := range []string{"disk 2.0", "42", "kiosk-g3", "image.bz2", "6.1.0-test", "sectors of 512, mbr, boots with bios", "no partition with an /etc/fstab"} {
		if !strings.Contains(out, want) {
			t.Errorf("inspect lacks %q:\n%s", want, out)
		}
	}
	m, err := image.ParseManifest([]byte(done(t, "inspect", "--json", release)))
	if err != nil || m.Counter != 42 || m.Image.Format != image.Bzip2 {
		t.Errorf("inspect --json = %+v, %v", m, err)
	}
}

func TestPackRefusesWhatDoesNotFit(t *testing.T) {
	s, _ := releaseOf(t)
	out := filepath.Join(s.dir, "other")
	kernel, disk := filepath.Join(s.dir, "vmlinuz"), filepath.Join(s.dir, "disk.img")
	otherKernel := filepath.Join(s.dir, "vmlinuz2")
	write(t, otherKernel, bzImage("6.1.0-other"))
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"other kernel", []string{disk, "-o", out, "--kernel", otherKernel, "--initrd", s.out, "--compatible", "kiosk-g3"}, cli.Failed, "the initrd has modules for 6.1.0-test"},
		{"no kernel", []string{disk, "-o", out, "--initrd", s.out}, cli.Failed, "give both or neither"},
		{"kernel is none", []string{disk, "-o", out, "--kernel", disk, "--initrd", s.out}, cli.Failed, "not a kernel"},
		{"initrd is none", []string{disk, "-o", out, "--kernel", kernel, "--initrd", kernel}, cli.Failed, "read initrd"},
		{"incompatible", []string{disk, "-o", out, "--kernel", kernel, "--initrd", s.out, "--compatible", "kiosk-g2"}, cli.Failed, "this machine is [\"kiosk-g3\"]"},
		{"format", []string{disk, "-o", out, "--format", "xz"}, cli.Usage, "expected bz2 or zst"},
		{"no output", []string{disk}, cli.Usage, "--output is missing"},
		{"no key", []string{disk, "-o", out, "--key", disk + ".key"}, cli.Failed, "no such file"},
		{"public key", []string{disk, "-o", out, "--key", filepath.Join(s.dir, "fleet.pub")}, cli.Failed, "expected a .key"},
	} {
		status, _, errs := try(append([]string{"pack"}, tt.args...)...)
		if status != tt.status || !strings.Contains(errs, tt.want) {
			t.Errorf("%s: status %d, %s; want %d with %q", tt.name, status, errs, tt.status, tt.want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: there is a release", tt.name)
		}
	}
	if left, err := filepath.Glob(filepath.Join(s.dir, ".reimager-pack-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
