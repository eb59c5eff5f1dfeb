//go:build linux

package kmod

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"reimager/report"
)

// kernel stands in for finit_module(2) and notes what it was given.
type kernel struct {
	mu     sync.Mutex
	calls  []string
	errs   map[string]error           // by file
	before map[string]<-chan struct{} // blocks the file until it is closed
	seen   map[string]chan struct{}   // closed when the file arrives
}

func (k *kernel) insert(file, params string) error {
	file = filepath.Base(file)
	k.mu.Lock()
	k.calls = append(k.calls, strings.TrimSpace(file+" "+params))
	k.mu.Unlock()
	if c := k.seen[file]; c != nil {
		close(c)
	}
	if c := k.before[file]; c != nil {
		<-c
	}
	return k.errs[file]
}

func (k *kernel) sorted() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(slices.Values(k.calls))
}

func chainIndex() *Index {
	return &Index{
		Kernel: testVersion,
		First:  []string{"ahci", "ext4"},
		BuiltIns: []BuiltIn{
			{Name: "fat", Aliases: []string{"fs-fat"}},
		},
		Modules: []IndexModule{
			{Name: "libata", File: "libata.ko"},
			{Name: "ahci", File: "ahci.ko", Depends: []string{"libata"}, Aliases: []string{"pci:v*bc01*"}},
			{Name: "crc32c", File: "crc32c.ko", Aliases: []string{"crypto-crc32c"}},
			{Name: "jbd2", File: "jbd2.ko"},
			{Name: "ext4", File: "ext4.ko", Depends: []string{"jbd2"}, Pre: []string{"crc32c"}, Aliases: []string{"fs-ext4"}},
			{Name: "vfio", File: "vfio.ko", Post: []string{"vfio_iommu"}},
			{Name: "vfio_iommu", File: "vfio_iommu.ko", Depends: []string{"vfio"}, Post: []string{"vfio"}},
		},
	}
}

func TestLoadOrderAndOnce(t *testing.T) {
	k := &kernel{}
	l := NewLoader(chainIndex(), "/m", map[string]string{"ext4": "a=1 b=2"}, WithInsert(k.insert))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := l.Load(t.Context(), "ext4", "fs-ext4", "ahci", "fat", "fs-fat"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want := []string{"ahci.ko", "crc32c.ko", "ext4.ko a=1 b=2", "jbd2.ko", "libata.ko"}
	if diff := cmp.Diff(want, k.sorted()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	for _, pair := range [][2]string{{"libata.ko", "ahci.ko"}, {"jbd2.ko", "ext4.ko a=1 b=2"}, {"crc32c.ko", "ext4.ko a=1 b=2"}} {
		if slices.Index(k.calls, pair[0]) > slices.Index(k.calls, pair[1]) {
			t.Errorf("%s came after %s", pair[0], pair[1])
		}
	}
	if got := l.Results(); len(got) != 5 || got[4].Name != "ext4" || got[4].Outcome != Loaded || got[4].File != "/m/ext4.ko" {
		t.Errorf("Results = %+v", got)
	}
}

// TestLoadInParallel has ahci wait for ext4: one after the other would never end.
func TestLoadInParallel(t *testing.T) {
	ext4 := make(chan struct{})
	k := &kernel{
		seen:   map[string]chan struct{}{"ext4.ko": ext4},
		before: map[string]<-chan struct{}{"ahci.ko": ext4},
	}
	if err := NewLoader(chainIndex(), "/m", nil, WithInsert(k.insert)).LoadFirst(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLoadPost(t *testing.T) {
	k := &kernel{}
	if err := NewLoader(chainIndex(), "/m", nil, WithInsert(k.insert)).Load(t.Context(), "vfio"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"vfio.ko", "vfio_iommu.ko"}, k.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestLoadErrors(t *testing.T) {
	for _, test := range []struct {
		name  string
		errs  map[string]error
		want  string // of Explain, "" for none
		calls []string
	}{
		{"exists", map[string]error{"libata.ko": unix.EEXIST}, "", []string{"ahci.ko", "crc32c.ko", "ext4.ko", "jbd2.ko", "libata.ko"}},
		{"no hardware", map[string]error{"ahci.ko": unix.ENODEV}, "", []string{"ahci.ko", "crc32c.ko", "ext4.ko", "jbd2.ko", "libata.ko"}},
		{"no hardware for a dependency", map[string]error{"libata.ko": unix.ENODEV}, "", []string{"crc32c.ko", "ext4.ko", "jbd2.ko", "libata.ko"}},
		{"soft dependency", map[string]error{"crc32c.ko": unix.EINVAL}, "", []string{"ahci.ko", "crc32c.ko", "ext4.ko", "jbd2.ko", "libata.ko"}},
		{
			"two fail, the rest goes on", map[string]error{"libata.ko": unix.ENOEXEC, "ext4.ko": unix.ENOKEY},
			"load module libata: /m/libata.ko: built for another kernel: exec format error\n" +
				"load module ahci: it needs libata, which is not loaded\n" +
				"load module ext4: /m/ext4.ko: its signature is not by a key of this kernel: required key not available\n" +
				"hint: build the initrd with the modules of the kernel that boots it: they are for 6.1.0-test\n" +
				"hint: Secure Boot or module.sig_enforce wants the distribution's own, signed modules",
			[]string{"crc32c.ko", "ext4.ko", "jbd2.ko", "libata.ko"},
		},
		{
			"file missing", map[string]error{"ext4.ko": &fs.PathError{Op: "open", Path: "/m/ext4.ko", Err: unix.ENOENT}},
			"load module ext4: open /m/ext4.ko: no such file or directory\n" +
				"hint: the initrd is damaged or lacks the file: build it again",
			[]string{"ahci.ko", "crc32c.ko", "ext4.ko", "jbd2.ko", "libata.ko"},
		},
		{
			"symbol", map[string]error{"ext4.ko": unix.ENOENT},
			"load module ext4: /m/ext4.ko: a symbol is unknown to the kernel: no such file or directory\n" +
				"hint: build the initrd with the modules of the kernel that boots it, after depmod; the kernel log says more",
			[]string{"ahci.ko", "crc32c.ko", "ext4.ko", "jbd2.ko", "libata.ko"},
		},
		{
			"parameter", map[string]error{"ext4.ko": unix.EINVAL},
			"load module ext4: /m/ext4.ko: a parameter is invalid: invalid argument\n" +
				"hint: its parameters on the kernel command line are: x=y",
			[]string{"ahci.ko", "crc32c.ko", "ext4.ko", "jbd2.ko", "libata.ko"},
		},
		{
			"unusual", map[string]error{"ext4.ko": unix.EIO},
			"load module ext4: /m/ext4.ko: input/output error\nhint: the kernel log says more",
			[]string{"ahci.ko", "crc32c.ko", "ext4.ko", "jbd2.ko", "libata.ko"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := &kernel{errs: test.errs}
			params := map[string]string{}
			if test.name == "parameter" {
				params["ext4"] = "x=y"
			}
			l := NewLoader(chainIndex(), "/m", params, WithInsert(k.insert))
			if diff := cmp.Diff(test.want, report.Explain(l.LoadFirst(t.Context()))); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			var calls []string
			for _, c := range k.sorted() {
				calls = append(calls, strings.Fields(c)[0])
			}
			if diff := cmp.Diff(test.calls, calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			for _, r := range l.Results() {
				if (r.Outcome == Loaded) != (r.Err == nil) {
					t.Errorf("result %+v", r)
				}
			}
		})
	}
}

func TestLoadUnknown(t *testing.T) {
	k := &kernel{}
	err := NewLoader(chainIndex(), "/m", nil, WithInsert(k.insert)).Load(t.Context(), "nvme", "ext4")
	want := "load module nvme: not in this initrd\nhint: add it to `modules` in reimager.toml and build the initrd again"
	if diff := cmp.Diff(want, report.Explain(err)); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	if !slices.Contains(k.sorted(), "ext4.ko") {
		t.Error("ext4 was not loaded beside an unknown module")
	}
}

func TestBlacklist(t *testing.T) {
	for _, test := range []struct {
		name string
		load func(*Loader) error
		want []string
	}{
		{"first", func(l *Loader) error { return l.LoadFirst(t.Context()) }, []string{"ext4.ko", "jbd2.ko"}},
		{"modalias", func(l *Loader) error { return l.LoadFor(t.Context(), "pci:v1bc01x", "usb:none", "fs-ext4") }, []string{"ext4.ko", "jbd2.ko"}},
		{"alias", func(l *Loader) error { return l.Load(t.Context(), "crypto-crc32c") }, nil},
		{"by name", func(l *Loader) error { return l.Load(t.Context(), "ahci") }, []string{"ahci.ko", "libata.ko"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := &kernel{}
			l := NewLoader(chainIndex(), "/m", nil, WithInsert(k.insert), WithBlacklist("ahci", "crc32c", "not-there"))
			err := test.load(l)
			if test.name == "alias" {
				if want := "load module crypto-crc32c: blacklisted on the kernel command line: crc32c"; err == nil || err.Error() != want {
					t.Errorf("error = %v; want %q", err, want)
				}
			} else if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(test.want, k.sorted()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoadNamesWhatHangs(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	k := &kernel{
		seen:   map[string]chan struct{}{"libata.ko": arrived},
		before: map[string]<-chan struct{}{"libata.ko": release},
	}
	l := NewLoader(chainIndex(), "/m", nil, WithInsert(k.insert))
	if err := l.Load(t.Context(), "jbd2"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-arrived
		cancel(errors.New("time is up"))
	}()
	err := l.Load(ctx, "ahci", "jbd2")
	want := "load modules: still under way: libata, ahci: time is up\n" +
		"hint: a driver that hangs can be left out with modprobe.blacklist=NAME on the kernel command line"
	if diff := cmp.Diff(want, report.Explain(err)); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	close(release)
	if err := l.Load(t.Context(), "ahci"); err != nil {
		t.Errorf("Load when it has come back: %v", err)
	}
}

func TestFinitModule(t *testing.T) {
	l := NewLoader(chainIndex(), t.TempDir(), nil)
	err := l.Load(t.Context(), "jbd2")
	if err == nil || !strings.Contains(err.Error(), "jbd2.ko: no such file") || !strings.Contains(report.Explain(err), "lacks the file") {
		t.Errorf("Load without the file: got %q", report.Explain(err))
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "jbd2.ko"), []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Root gets ENOEXEC, others EPERM, containers what their filter says: an error in any case.
	err = NewLoader(chainIndex(), dir, nil).Load(t.Context(), "jbd2")
	if err == nil || !strings.Contains(err.Error(), "load module jbd2: "+dir+"/jbd2.ko: ") {
		t.Errorf("Load of a text file: got %v", err)
	}
}
