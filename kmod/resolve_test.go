package kmod

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/report"
)

func names(s *Selection) []string {
	var list []string
	for _, m := range s.Modules {
		list = append(list, m.Name)
	}
	return list
}

func TestResolveOrder(t *testing.T) {
	tree := openSample(t)
	ext4 := []string{"crc32c_generic", "crc32c_intel", "jbd2", "ext4"}
	for _, test := range []struct {
		name string
		want []string
	}{
		{"ahci", []string{"libata", "libahci", "ahci"}},
		{"usb-storage", []string{"usb_storage"}},
		{"usb_storage", []string{"usb_storage"}},
		{"ext4", ext4},
		{"fs-ext4", ext4},
		{"crypto_crc32c", []string{"crc32c_generic", "crc32c_intel"}},
		{"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", []string{"libata", "libahci", "ahci"}},
		{"vfio", []string{"vfio", "vfio_iommu"}},
		// Soft dependencies in a circle with a hard one: egg → shell ⇢ hen ⇢ egg.
		{"hen", []string{"shell", "egg", "hen"}},
		{"egg", []string{"hen", "shell", "egg"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := tree.Resolve([]Want{{Name: test.name}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, names(s)); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
			checkOrder(t, s)
		})
	}
}

// checkOrder checks that every module comes after what it needs, and that the
// index accepts it.
func checkOrder(t *testing.T, s *Selection) {
	t.Helper()
	seen := map[string]bool{}
	for _, m := range s.Modules {
		for _, dep := range slices.Concat(m.Depends, m.Pre) {
			if !seen[dep] {
				t.Errorf("%s comes before %s, which it needs", m.Name, dep)
			}
		}
		seen[m.Name] = true
	}
	if err := s.Index().Encode(&bytes.Buffer{}); err != nil {
		t.Error(err)
	}
}

func TestResolveStates(t *testing.T) {
	s, err := openSample(t).Resolve([]Want{
		{Name: "usb-storage"},
		{Name: "fs-fat"},
		{Name: "crc-t10dif"},
		{Name: "nvme", Optional: true},
		{Name: "crypto-crc32c", OnDemand: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []Wanted{
		{Want{Name: "usb-storage"}, Included, []string{"usb_storage"}, nil},
		{Want{Name: "fs-fat"}, BuiltInto, nil, []string{"fat"}},
		{Want{Name: "crc-t10dif"}, BuiltInto, nil, []string{"crc_t10dif"}},
		{Want{Name: "nvme", Optional: true}, Missing, nil, nil},
		{Want{Name: "crypto-crc32c", OnDemand: true}, Included, []string{"crc32c_generic", "crc32c_intel"}, nil},
	}
	if diff := cmp.Diff(want, s.Wanted); diff != "" {
		t.Errorf("Wanted (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"usb_storage"}, s.Index().First); diff != "" {
		t.Errorf("First (-want +got):\n%s", diff)
	}
}

func TestResolveMissing(t *testing.T) {
	_, err := openSample(t).Resolve([]Want{
		{Name: "nvme"}, {Name: "ahci"}, {Name: "sd_mod"}, {Name: "sr_mod", Optional: true}, {Name: "fat"}, {Name: "nvme"},
	})
	got := report.Explain(err)
	if !strings.Contains(got, "neither in ") || !strings.Contains(got, "nor built in: nvme, sd_mod\nhint: ") {
		t.Errorf("Resolve: got %q; want nvme and sd_mod, and a hint", got)
	}
}

func TestResolveHardCycle(t *testing.T) {
	tree, err := OpenTree(treeDir(t, map[string]string{"modules.dep": "a.ko: b.ko\nb.ko: c.ko\nc.ko: a.ko\n"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Resolve([]Want{{Name: "a"}}); err == nil || !strings.Contains(err.Error(), "module a: its dependencies lead back to it") {
		t.Errorf("Resolve of a cycle: got %v", err)
	}
}

// TestRealTree reads /lib/modules/VERSION of a distribution: its files hold what no
// invented tree would.
func TestRealTree(t *testing.T) {
	dir := os.Getenv("REIMAGER_TEST_MODULES")
	if dir == "" {
		t.Skip("REIMAGER_TEST_MODULES names no /lib/modules/VERSION to test with")
	}
	tree, err := OpenTree(dir)
	if err != nil {
		t.Fatal(report.Explain(err))
	}
	for name, list := range map[string][]Want{"classic": Classic(), "all-storage": AllStorage()} {
		t.Run(name, func(t *testing.T) {
			s, err := tree.Resolve(list)
			if err != nil {
				t.Fatal(report.Explain(err))
			}
			checkOrder(t, s)
			again, err := tree.Resolve(list)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(names(s), names(again)); diff != "" {
				t.Errorf("second time (-first +second):\n%s", diff)
			}
			total := 0
			for _, m := range s.Modules {
				data, err := tree.Read(m)
				if err != nil {
					t.Fatal(report.Explain(err))
				}
				total += len(data)
			}
			var states []string
			for _, w := range s.Wanted {
				if w.State != Included {
					states = append(states, w.Name+" "+w.State.String())
				}
			}
			var b bytes.Buffer
			if err := s.Index().Encode(&b); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d modules, %d bytes, index %d bytes; %s", len(s.Modules), total, b.Len(), strings.Join(states, ", "))
			t.Logf("order: %s", strings.Join(names(s), " "))
			x, err := DecodeIndex(&b)
			if err != nil {
				t.Fatal(err)
			}
			if got := x.Match("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"); !slices.Contains(got, "ahci") {
				t.Errorf("Match of an ICH9 AHCI controller = %q; want ahci", got)
			}
		})
	}
}
