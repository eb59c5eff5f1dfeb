package hook

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/disk"
)

// Hooks are shown the partition table that the disk gets when the machine lands.
func TestFacadeShowsWhatIsHeldBack(t *testing.T) {
	const size = 4 << 20
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	sfdisk := exec.Command("sfdisk", path)
	sfdisk.Stdin = strings.NewReader("label: gpt\nsize=1MiB\n")
	if out, err := sfdisk.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := disk.ReadTable(bytes.NewReader(whole), 512)
	if err != nil {
		t.Fatal(err)
	}
	var held []disk.Piece
	now := bytes.Clone(whole)
	for _, off := range []int64{0, 512, size - 512} {
		held = append(held, disk.Piece{Off: off, Data: whole[off : off+512]})
		clear(now[off : off+512])
	}
	if err := os.WriteFile(path, now, 0o600); err != nil {
		t.Fatal(err)
	}
	d := &disk.Disk{Name: "disk", Path: path, Bytes: size, SectorSize: 512}
	for _, tt := range []struct {
		held []disk.Piece
		want *disk.Table
	}{{held, want}, {nil, &disk.Table{}}} {
		f := facade{held: tt.held}
		got, err := f.read(d)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("table with %d pieces held back (-want +got):\n%s", len(tt.held), diff)
		}
		if tt.held == nil {
			continue
		}
		shown := make([]byte, size)
		for _, p := range f.pieces {
			copy(shown[p.off:], p.data)
		}
		for _, h := range held {
			if !bytes.Equal(shown[h.Off:h.Off+512], h.Data) {
				t.Errorf("the sector at %d is not shown", h.Off)
			}
		}
	}
}
