package lifeboat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"

	"reimager/boot"
	"reimager/disk/simdisk"
)

// What a machine starts when it is switched on.
const (
	startsOld  = "the old system"
	startsNew  = "the new system"
	startsBoat = "the lifeboat"
)

// starts decides as a BIOS does: by sector 0. A lifeboat that would not come up is an
// error, as is a sector 0 that nobody has written.
func (s *scenario) starts(c simdisk.Content) (string, error) {
	sector0 := c.Slice(0, 512)
	switch {
	case bytes.Equal(sector0, s.old.Slice(0, 512)):
		return startsOld, nil
	case bytes.Equal(sector0, s.image[:512]):
		return startsNew, nil
	case !bytes.Equal(sector0[440:], s.image[440:512]):
		return "", fmt.Errorf("sector 0 has neither the old partition table nor the new one")
	}
	return startsBoat, s.boots(c, sector0)
}

// boots follows a boot sector to the kernel: all that it leads to has to be there.
func (s *scenario) boots(c simdisk.Content, bootSector []byte) error {
	le := binary.LittleEndian
	script := boot.Blocks{Sector: int64(le.Uint32(bootSector[0x30:]))<<4 + int64(bootSector[0x34]), Count: int64(bootSector[0x35])}
	at := int64(le.Uint64(bootSector[0x5c:]))
	for _, b := range []boot.Blocks{script, {Sector: at, Count: s.grub.Bytes() / 512}} {
		if b.Sector < simBerth/512 || b.Sector+b.Count > (simBerth+simRoom)/512 {
			return fmt.Errorf("the boot sector leads to %v", b)
		}
	}
	core, first, err := s.grub.Make(script, at)
	if err != nil {
		return err
	}
	if !bytes.Equal(first[:440], bootSector[:440]) || !bytes.Equal(core, c.Slice(at*512, s.grub.Bytes())) {
		return fmt.Errorf("GRUB's core at sector %d is not whole", at)
	}
	text := c.Slice(script.Sector*512, script.Count*512)
	lists := s.lists.FindAllSubmatch(text, -1)
	if len(lists) != 4 || !bytes.Contains(text, []byte(simParameter)) || !bytes.HasSuffix(bytes.TrimRight(text, "\n"), []byte("\nreboot")) {
		return fmt.Errorf("GRUB's script at %v is not whole: %.80q", script, text)
	}
	for _, l := range lists {
		off, _ := strconv.ParseInt(string(l[2]), 10, 64)
		sectors, _ := strconv.ParseInt(string(l[3]), 10, 64)
		want := s.files[Kernel]
		if string(l[1]) == "initrd" {
			want = s.files[Initrd]
		}
		if (off+sectors)*512 > simBytes || sectors*512 < int64(len(want)) || !bytes.Equal(c.Slice(off*512, int64(len(want))), want) {
			return fmt.Errorf("what GRUB's script loads by %s is not whole", l[0])
		}
	}
	return nil
}
