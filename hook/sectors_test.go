package hook

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"reimager/disk"
)

func TestCompare(t *testing.T) {
	table := &disk.Table{Entries: []disk.Entry{
		{Number: 1, Start: 63 * 512, Bytes: 100 * 512, Type: "83"},
		{Number: 2, Start: 200 * 512, Bytes: 1 << 40, Type: "05", Extended: true},
		{Number: 5, Start: 210 * 512, Bytes: 20 * 512, Type: "83"},
		{Number: 6, Start: 300 * 512, Bytes: 10 * 512, Type: strings.ToUpper(biosBoot)},
	}}
	for _, tt := range []struct {
		name    string
		size    int
		changes []int // offsets
		want    *ChangedError
	}{
		{"nothing", 1 << 20, nil, nil},
		{"the boot sector", 1 << 20, []int{0}, &ChangedError{0, 1}},
		{"its last byte", 1 << 20, []int{511}, &ChangedError{0, 1}},
		{"before partition 1", 1 << 20, []int{63*512 - 1, 62 * 512}, &ChangedError{62, 1}},
		{"in partition 1", 1 << 20, []int{63 * 512, 163*512 - 1}, nil},
		{"behind it", 1 << 20, []int{163 * 512}, &ChangedError{163, 1}},
		{"an EBR", 1 << 20, []int{200 * 512}, &ChangedError{200, 1}},
		{"a logical partition", 1 << 20, []int{210 * 512}, nil},
		{"BIOS boot", 1 << 20, []int{301 * 512, 305 * 512}, &ChangedError{301, 2}},
		{"the last guarded byte", 2 << 20, []int{1<<20 - 1}, &ChangedError{2047, 1}},
		{"behind what is guarded", 2 << 20, []int{1 << 20}, nil},
		{"a tiny disk", 1000, []int{999}, &ChangedError{1, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := make([]byte, tt.size)
			s, err := Snapshot(bytes.NewReader(data), 512, table, GuardedBytes)
			if err != nil {
				t.Fatal(err)
			}
			now := slices.Clone(data)
			for _, off := range tt.changes {
				now[off] ^= 1
			}
			err = s.Compare(bytes.NewReader(now))
			var got *ChangedError
			if errors.As(err, &got) != (tt.want != nil) || got != nil && *got != *tt.want || got == nil && err != nil {
				t.Errorf("Compare = %v; want %v", err, tt.want)
			}
		})
	}
	// A table that calls the whole disk a partition hides no boot sector.
	whole := &disk.Table{Entries: []disk.Entry{{Number: 1, Start: 0, Bytes: 1 << 20, Type: "83"}}}
	s, err := Snapshot(bytes.NewReader(make([]byte, 4096)), 512, whole, GuardedBytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Compare(bytes.NewReader(bytes.Repeat([]byte{1}, 4096))); err == nil {
		t.Error("Compare = nil for a changed sector 0 in a partition that begins there")
	}
	if err := s.Compare(bytes.NewReader(make([]byte, 100))); err == nil {
		t.Error("Compare = nil for a disk that became shorter")
	}
}
