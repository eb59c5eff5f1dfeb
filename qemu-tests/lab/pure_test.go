package lab

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCacheEntryIsBuiltOnce(t *testing.T) {
	t.Setenv("REIMAGER_CACHE", filepath.Join(t.TempDir(), "cache"))
	cache, err := OpenCache()
	if err != nil {
		t.Fatal(err)
	}
	built := 0
	broken := errors.New("broken")
	entry := func(err error) (string, error) {
		return cache.Entry(t.Context(), "thing", KeyOf("a", 1), func(dir string) error {
			built++
			return errors.Join(os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644), err)
		})
	}
	if _, err := entry(broken); !errors.Is(err, broken) {
		t.Errorf("Entry = %v; want %v", err, broken)
	}
	if left, _ := filepath.Glob(filepath.Join(cache.Dir(), "thing-*", "file")); left != nil {
		t.Errorf("after a failed build there is %v; want nothing", left)
	}
	for range 2 {
		dir, err := entry(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
			t.Error(err)
		}
	}
	if built != 2 {
		t.Errorf("built %d times; want 2: once broken, once well", built)
	}
	unlock, err := cache.lock(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cache.lock(ended, "other"); !errors.Is(err, context.Canceled) {
		t.Errorf("second lock = %v; want %v", err, context.Canceled)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

func TestKeyOf(t *testing.T) {
	if KeyOf("ab", "c") == KeyOf("a", "bc") {
		t.Error("KeyOf joins its parts")
	}
	if got, want := KeyOf("a", 1), Key("c1825e4186ada87c1516"); got != want {
		t.Errorf("KeyOf = %s; want %s, or every cache is built anew", got, want)
	}
}

func TestCopySparse(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	f, err := os.Create(src)
	if err != nil {
		t.Fatal(err)
	}
	_, first := f.WriteAt([]byte("one"), 1<<20)
	_, second := f.WriteAt([]byte("two"), 5<<20)
	if err := errors.Join(first, second, f.Truncate(9<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := CopySparse(dst, src); err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(src)
	got, err := os.ReadFile(dst)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("copy of %d bytes differs, %v", len(got), err)
	}
}

func TestImageDependency(t *testing.T) {
	for record, want := range map[string]string{
		"Package: linux-image-amd64\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n":                                "linux-image-6.1.0-56-amd64",
		"Depends: linux-firmware, linux-image-6.8.0-45-generic | linux-image-unsigned-6.8.0-45-generic, amd64-microcode": "linux-image-6.8.0-45-generic",
		"Depends: linux-image-generic-hwe\n": "",
		"":                                   "",
	} {
		if got := imageDependency(record); got != want {
			t.Errorf("imageDependency(%q) = %q; want %q", record, got, want)
		}
	}
}

func TestResolveModules(t *testing.T) {
	kernel := Kernel{Version: "6.0", Modules: t.TempDir()}
	dep := "kernel/a/top-mod.ko.xz: kernel/b/middle.ko kernel/c/bottom.ko\nkernel/b/middle.ko: kernel/c/bottom.ko\nkernel/c/bottom.ko:\nno colon\n"
	err := errors.Join(
		os.WriteFile(filepath.Join(kernel.Modules, "modules.dep"), []byte(dep), 0o644),
		os.WriteFile(filepath.Join(kernel.Modules, "modules.builtin"), []byte("kernel/d/inside-it.ko\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	got, err := resolveModules(kernel, []string{"top_mod", "inside_it", "middle"}, []string{"absent"})
	want := []string{"kernel/c/bottom.ko", "kernel/b/middle.ko", "kernel/a/top-mod.ko.xz"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("resolveModules: %v (-want +got):\n%s", err, diff)
	}
	if _, err := resolveModules(kernel, []string{"absent"}, nil); err == nil || !strings.Contains(err.Error(), "no module absent") {
		t.Errorf("resolveModules(absent) = %v; want an error that names it", err)
	}
}

func TestLayOutRefuses(t *testing.T) {
	for _, tc := range []struct {
		name  string
		parts []Partition
	}{
		{"too large", []Partition{{SizeMiB: 16}}},
		{"overlap", []Partition{{SizeMiB: 8}, {StartMiB: 4}}},
		{"logical without container", []Partition{{Logical: true}}},
		{"logical larger than its container", []Partition{{FS: Extended, SizeMiB: 4}, {Logical: true, SizeMiB: 4}}},
		{"nothing left", []Partition{{SizeMiB: 15}, {}}},
	} {
		if got, err := layOut(DiskSpec{SizeMiB: 16, Label: MBR, Partitions: tc.parts}); err == nil {
			t.Errorf("%s: layOut = %+v; want an error", tc.name, got)
		}
	}
}

func TestGrubEnv(t *testing.T) {
	got, err := GrubEnv("next_entry=a b", `path=c:\d`)
	if err != nil || len(got) != 1024 || !strings.HasPrefix(got, "# GRUB Environment Block\nnext_entry=a b\npath=c:\\\\d\n####") {
		t.Errorf("GrubEnv = %q, %v", got, err)
	}
	if _, err := GrubEnv("x=" + strings.Repeat("y", 1000)); err == nil {
		t.Error("GrubEnv of 1027 bytes: no error; want one")
	}
}

func FuzzMarkRanges(f *testing.F) {
	for _, seed := range []string{" 12-2048", "5", "1-3, 7, 9-9", "", "x", "3-"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		set := map[int]bool{}
		if err := markRanges(set, 4096, list); err != nil {
			return
		}
		for i := range set {
			if i < 1 || i > 4096 {
				t.Errorf("markRanges(%q) marked %d", list, i)
			}
		}
	})
}
