package prove

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
)

// TestBuildDisk reads the stand-in back with the code that a machine reads its disk
// with.
func TestBuildDisk(t *testing.T) {
	for _, text := range []string{
		"[image]\nsource = \"/dev/sda5:/x\"\n[old]\nroot = \"/dev/sda2\"\nmounts = { \"/srv\" = \"/dev/sda5\", \"/srv/my data\" = \"LABEL=data\" }",
		"[old]\nroot = \"PARTLABEL=the root\"\nmounts = { \"/srv\" = \"PARTUUID=" + someUUID + "\", \"/srv/my data\" = \"LABEL=data\" }",
	} {
		c := parse(t, text)
		m, err := planMachine(c, needs{has: func(string) bool { return true }})
		if err != nil {
			t.Fatal(err)
		}
		files := []standIn{
			{path: "/etc/machine-id", content: "abc\n", mode: 0o444},
			{path: `/srv/it "is" it`, content: "quoted", mode: 0o600, uid: 4242, gid: 4243, wantUID: 4242, wantGID: 4243},
			{path: "/srv/my data/d", directory: true, mode: 0o700, uid: 7, wantUID: 7},
			{path: "/srv/my data/d/f", content: "deep", mode: 0o400},
		}
		work := t.TempDir()
		release := filepath.Join(work, "release")
		if err := errors.Join(os.Mkdir(release, 0o755), os.WriteFile(filepath.Join(release, "manifest.json"), []byte("{}"), 0o600)); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(work, "disk")
		old := &oldSystem{files: files, passwd: "root:x:0:0::/:/bin/sh\n", group: "root:x:0:\n"}
		if err := buildDisk(t.Context(), file, work, release, m, old, []byte("job"), []byte("gate"), []byte("report")); err != nil {
			t.Fatal(err)
		}
		n := readDisk(t, file, m)
		r := &run{disk: file}
		for dir, device := range c.Old.Mounts {
			e, ok := n.find(device)
			if !ok {
				t.Fatalf("%s: no %s on the disk", text, device)
			}
			n.mounts[dir] = e
		}
		root, ok := n.find(c.Old.Root)
		if !ok {
			t.Fatalf("%s: no %s on the disk", text, c.Old.Root)
		}
		n.mounts["/"] = root
		for _, f := range files {
			e, name, ok := n.place(f.path)
			if !ok {
				t.Fatalf("no place for %s", f.path)
			}
			if err := r.compareFile(t.Context(), r.ext(e), name, f); err != nil {
				t.Errorf("%s: %v", f.path, err)
			}
			f.content, f.wantGID = f.content+"x", f.wantGID+1
			if err := r.compareFile(t.Context(), r.ext(e), name, f); err == nil {
				t.Errorf("%s: another content and owner are not noticed", f.path)
			}
		}
		fstab, err := r.ext(root).read(t.Context(), "/etc/fstab")
		if err != nil || !strings.Contains(string(fstab), ` /srv/my\040data ext4`) {
			t.Errorf("fstab = %q, %v; want /srv/my data", fstab, err)
		}
		got, err := extAt{file, m.release().start}.read(t.Context(), releaseDir+"/manifest.json")
		if err != nil || string(got) != "{}" {
			t.Errorf("release: %q, %v", got, err)
		}
		if got, err := r.ext(root).read(t.Context(), "/absent"); err == nil {
			t.Errorf("read of an absent file = %q; want an error", got)
		}
	}
}

func readDisk(t *testing.T, file string, m *machine) *newSystem {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := disk.ReadTable(f, 512)
	if err != nil {
		t.Fatal(err)
	}
	if table.UUID != strings.ToLower(m.ptuuid()) {
		t.Errorf("table %s; want %s, as the job says", table.UUID, m.ptuuid())
	}
	n := &newSystem{table: table, kinds: map[int]disk.Filesystem{}, mounts: map[string]disk.Entry{}}
	for _, p := range m.parts {
		e, ok := table.Entry(p.number)
		if !ok || e.Start != p.start || e.Bytes != p.size && !p.extended {
			t.Errorf("partition %d: %+v; want it at %d with %d bytes", p.number, e, p.start, p.size)
		}
		if n.kinds[p.number], err = disk.Probe(io.NewSectionReader(f, e.Start, e.Bytes)); err != nil {
			t.Fatal(err)
		}
		if got := n.kinds[p.number]; got.UUID != p.uuid || got.Label != p.label {
			t.Errorf("partition %d holds %+v; want UUID %q, label %q", p.number, got, p.uuid, p.label)
		}
	}
	return n
}

func TestCompareRanges(t *testing.T) {
	content := make([]byte, 4*mib)
	for i := range content {
		content[i] = byte(i / 4096)
	}
	file := filepath.Join(t.TempDir(), "disk")
	n := &newSystem{table: &disk.Table{Kind: "mbr", Entries: []disk.Entry{{Number: 1, Start: mib, Bytes: mib}, {Number: 2, Start: 2 * mib, Bytes: mib}}},
		kinds: map[int]disk.Filesystem{1: {Type: "ext4"}, 2: {Type: "swap"}}}
	m := &image.Map{Bytes: int64(len(content))}
	for at := int64(0); at < 4*mib; at += mib {
		m.Ranges = append(m.Ranges, image.MapRange{Extent: image.Extent{Off: at, Bytes: mib}, Digest: sha256.Sum256(content[at : at+mib])})
	}
	r := &run{release: &release{head: content[:mib], blockMap: m, manifest: &image.Manifest{}}}
	for _, tc := range []struct {
		name string
		at   int // of a byte that differs; -1: none
		want string
	}{
		{"as the image", -1, ""},
		{"boot code", 3, "the boot code before the first partition differs"},
		{"boot loader's core", 600, "the boot code before the first partition differs"},
		{"a filesystem, where files were restored", mib + 5, ""},
		{"swap", 2*mib + 5, "the 1048576 bytes at byte 2097152 differ"},
		{"behind the partitions", 4*mib - 1, "the 1048576 bytes at byte 3145728 differ"},
	} {
		disk := append([]byte(nil), content...)
		if tc.at >= 0 {
			disk[tc.at] ^= 1
		}
		if err := os.WriteFile(file, disk, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.compareRanges(f, n)
		f.Close()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %q, %v; want %q", tc.name, got, err, tc.want)
		}
	}
}

func TestFindNew(t *testing.T) {
	n := &newSystem{table: &disk.Table{Entries: []disk.Entry{{Number: 1, PartUUID: "1234abcd-01"}, {Number: 12, Name: "log"}}},
		kinds: map[int]disk.Filesystem{1: {UUID: someUUID, Label: "one"}}}
	for spec, want := range map[string]int{
		"/dev/sda1": 1, "/dev/sda12": 12, "/dev/nvme0n1p12": 12, "/dev/sda2": 0, "/dev/sda": 0, "partition 12": 12,
		"UUID=" + strings.ToUpper(someUUID): 1, "LABEL=one": 1, "LABEL=two": 0, "PARTUUID=1234ABCD-01": 1, "PARTLABEL=log": 12,
	} {
		d, err := config.ParseDevice(spec)
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := n.find(d); e.Number != want || ok != (want != 0) {
			t.Errorf("find(%s) = %d, %v; want %d", spec, e.Number, ok, want)
		}
	}
	if e, ok := n.find(config.Device{}); ok {
		t.Errorf("find of nothing = %+v", e)
	}
}

func TestScreens(t *testing.T) {
	for text, want := range map[string]string{
		"Booting from Hard Disk...\r\nBoot failed: not a bootable disk\r\n\r\nNo bootable device.\r\n": "Boot failed: not a bootable disk",
		"error: file not found\ngrub rescue> ":                                                         "grub rescue>",
		"[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs":                           "Kernel panic - not syncing: VFS: Unable to mount root fs",
		"GNU GRUB version 2.06\n  Debian\n[ OK ] Started":                                              "",
	} {
		if got := deadEnds.FindString(text); got != want {
			t.Errorf("deadEnds in %q: %q; want %q", text, got, want)
		}
	}
	for text, want := range map[string]bool{
		"Debian GNU/Linux 13 till ttyS0\r\n\r\ntill login: ": true, "till login: \r\n": true, "till login:\n\n\n": true, "Last login: Tue Nov": false, "login:x": false,
	} {
		if got := loginPrompt.MatchString(text); got != want {
			t.Errorf("loginPrompt in %q: %v; want %v", text, got, want)
		}
	}
}
