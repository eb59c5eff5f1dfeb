package kmod

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLists(t *testing.T) {
	all := AllStorage()
	seen := map[string]bool{}
	var required []string
	for _, w := range all {
		if seen[normalize(w.Name)] || !validName(w.Name) {
			t.Errorf("%q is there twice or no name", w.Name)
		}
		seen[normalize(w.Name)] = true
		if !w.Optional {
			required = append(required, w.Name)
		}
	}
	want := []string{"ahci", "ata_generic", "ata_piix", "sd_mod", "sr_mod", "ext4", "usb_storage"}
	if diff := cmp.Diff(want, required); diff != "" {
		t.Errorf("required (-want +got):\n%s", diff)
	}
	if !slices.Equal(all[:len(Classic())], Classic()) {
		t.Error("AllStorage does not begin with Classic")
	}
	all[0].Name = "changed"
	if got := AllStorage()[0].Name; got != "ahci" {
		t.Errorf("a caller's change shows in the next list: %q", got)
	}
}

// TestImpliedSoftDeps has vfat bring what fat asks for at mount.
func TestImpliedSoftDeps(t *testing.T) {
	tree, err := OpenTree(treeDir(t, map[string]string{
		"modules.dep": "fs/vfat.ko: fs/fat.ko\nfs/fat.ko:\nfs/nls_iso8859-1.ko:\nfs/nls_cp437.ko:\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := tree.Resolve([]Want{{Name: "vfat"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"nls_cp437", "nls_iso8859_1", "fat", "vfat"}, names(s)); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}
