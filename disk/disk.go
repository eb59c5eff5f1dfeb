// Package disk is where an image goes: finding the disk by what it is, reading
// partition tables and superblocks, writing past the page cache and reading
// back. It knows nothing of images.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
)

// Sysfs says where the kernel shows its block devices. The zero value is the
// running machine; tests point it elsewhere.
type Sysfs struct {
	Sys string // "/sys" if empty
	Dev string // "/dev" if empty
	// Proc shows who uses them; "/proc" if empty.
	Proc string
}

// Disk is a whole disk as the kernel knows it.
type Disk struct {
	Name       string // sda
	Path       string // /dev/sda
	Bytes      int64
	SectorSize int // logical, in bytes
	Removable  bool
	ReadOnly   bool
	Serial     string
	WWN        string
	Model      string
	Partitions []Partition // by number
}

// Partition is a partition as the kernel knows it.
type Partition struct {
	Name   string // sda2
	Path   string // /dev/sda2
	Number int
	Start  int64 // bytes
	Bytes  int64
}

// Partition returns the partition with that number.
func (d *Disk) Partition(number int) (Partition, bool) {
	for _, p := range d.Partitions {
		if p.Number == number {
			return p, true
		}
	}
	return Partition{}, false
}

// String names a disk so that a person finds it.
func (d *Disk) String() string {
	s := fmt.Sprintf("%s (%s", d.Path, Size(d.Bytes))
	for _, f := range []struct{ what, value string }{{"model", d.Model}, {"serial", d.Serial}, {"WWN", d.WWN}} {
		if f.value != "" {
			s += ", " + f.what + " " + f.value
		}
	}
	return s + ")"
}

// Size writes bytes as people read them: with binary units and three digits.
func Size(bytes int64) string {
	v, unit := float64(bytes), 0
	for v >= 1000 && unit < 5 {
		v, unit = v/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.3g %s", v, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[unit])
}

// virtual are block devices that are no disk of the machine: Documentation/admin-guide/devices.txt.
var virtual = regexp.MustCompile(`^(loop|ram|zram|dm-|md|sr|fd|nbd|drbd)\d*`)

// List returns the machine's disks, by name. CD drives, loop devices and what is
// stacked upon disks (dm, md) are none.
func (s Sysfs) List() ([]Disk, error) {
	entries, err := os.ReadDir(filepath.Join(s.sys(), "block"))
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var disks []Disk
	for _, e := range entries {
		if virtual.MatchString(e.Name()) {
			continue
		}
		d, err := s.Disk(e.Name())
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
			continue // it was pulled while we looked
		}
		if err != nil {
			return nil, err
		}
		if d.Bytes > 0 { // an empty card reader is no disk
			disks = append(disks, *d)
		}
	}
	return disks, nil
}

// Disk returns one disk by its kernel name, such as "sda".
func (s Sysfs) Disk(name string) (*Disk, error) {
	dir := filepath.Join(s.sys(), "block", name)
	sectors, err := readInt(filepath.Join(dir, "size"))
	if err != nil {
		return nil, fmt.Errorf("read size of disk %s: %w", name, err)
	}
	sector, err := readInt(filepath.Join(dir, "queue/logical_block_size"))
	if err != nil {
		return nil, fmt.Errorf("read sector size of disk %s: %w", name, err)
	}
	d := &Disk{
		Name: name, Path: s.node(name),
		Bytes:      sectors * 512, // sysfs counts sectors of 512 whatever the disk has: Documentation/ABI/stable/sysfs-block
		SectorSize: int(sector),
		Removable:  readText(filepath.Join(dir, "removable")) == "1",
		ReadOnly:   readText(filepath.Join(dir, "ro")) == "1",
		Model:      readText(filepath.Join(dir, "device/model")),
		Serial:     serial(dir),
		WWN:        wwn(dir),
	}
	d.Partitions, err = s.partitions(dir, name)
	return d, err
}

func (s Sysfs) partitions(dir, name string) ([]Partition, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list partitions of %s: %w", name, err)
	}
	var parts []Partition
	for _, e := range entries {
		number, err := readInt(filepath.Join(dir, e.Name(), "partition"))
		if err != nil {
			continue // not a partition but an attribute
		}
		start, errStart := readInt(filepath.Join(dir, e.Name(), "start"))
		size, errSize := readInt(filepath.Join(dir, e.Name(), "size"))
		if errStart != nil || errSize != nil {
			continue // the table is being reread
		}
		parts = append(parts, Partition{
			Name: e.Name(), Path: s.node(e.Name()), Number: int(number), Start: start * 512, Bytes: size * 512,
		})
	}
	sort.Slice(parts, func(i, j int) bool { return parts[i].Number < parts[j].Number })
	return parts, nil
}

// Holders names what is stacked upon the disk or its partitions (dm-0, md127).
func (s Sysfs) Holders(d *Disk) []string {
	var holders []string
	dir := filepath.Join(s.sys(), "block", d.Name)
	dirs := []string{filepath.Join(dir, "holders")}
	for _, p := range d.Partitions {
		dirs = append(dirs, filepath.Join(dir, p.Name, "holders"))
	}
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir) // a kernel without holders has no stacking
		for _, e := range entries {
			holders = append(holders, e.Name())
		}
	}
	return holders
}

// node is the device node of a kernel name; sysfs writes "!" for "/" (cciss!c0d0).
func (s Sysfs) node(name string) string {
	dev := s.Dev
	if dev == "" {
		dev = "/dev"
	}
	return filepath.Join(dev, strings.ReplaceAll(name, "!", "/"))
}

func (s Sysfs) sys() string {
	if s.Sys == "" {
		return "/sys"
	}
	return s.Sys
}

// serial returns the disk's serial number: NVMe and MMC below device/, virtio
// beside it, SCSI and ATA (through libata's emulation) in page 80h of the vital
// product data, whose text starts behind a header of 4 bytes (SPC-4, 7.8.15).
func serial(dir string) string {
	for _, f := range []string{"device/serial", "serial"} {
		if s := readText(filepath.Join(dir, f)); s != "" {
			return s
		}
	}
	if page, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80")); err == nil && len(page) > 4 {
		return strings.Trim(string(page[4:]), " \x00")
	}
	return ""
}

// wwn returns the disk's World Wide Name as udev writes it: 0x and 16 digits for
// NAA, the kernel's own text otherwise.
func wwn(dir string) string {
	for _, f := range []string{"device/wwid", "wwid"} {
		s := readText(filepath.Join(dir, f))
		if naa, ok := strings.CutPrefix(s, "naa."); ok {
			return "0x" + naa
		}
		if strings.HasPrefix(s, "eui.") || strings.HasPrefix(s, "nvme.") {
			return s
		}
	}
	return ""
}

func readText(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.Trim(string(text), " \n\x00")
}

func readInt(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// Discards tells whether a disk can be told that blocks are not needed:
// Documentation/ABI/stable/sysfs-block, queue/discard_max_bytes.
func (s Sysfs) Discards(d *Disk) bool {
	most := readText(filepath.Join(s.sys(), "block", d.Name, "queue/discard_max_bytes"))
	return most != "" && most != "0"
}
