package prove

import (
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"reimager/config"
	"reimager/disk"
	"reimager/report"
	"reimager/vm"
)

const mib = 1 << 20

// Smallest sizes of the stand-in's partitions, in MiB.
const (
	rootMiB   = 96 // its few files, the report file, ext4's journal
	mountMiB  = 64
	fillerMiB = 1
)

// machine is the stand-in: a disk with an old system, as the configuration expects
// to find it.
type machine struct {
	bus    vm.Bus
	serial string
	wwn    string // "0x" and 16 digits; "": none
	label  string // of the partition table: "dos" or "gpt", as sfdisk says
	id     string // of the table: "0x" and 8 digits, or a GUID
	bytes  int64
	parts  []partition // by number
}

// partition is one of the stand-in's partitions.
type partition struct {
	number      int
	start, size int64    // bytes
	extended    bool     // holds the logical ones
	root        bool     // of the old system
	mounts      []string // where the old system has it, beside /
	release     bool     // holds the release
	uuid, label string   // of its filesystem; no uuid: it has none
	partUUID    string   // GPT only; "": any
	name        string   // GPT only
}

// ptuuid is the id of the table as disk.ReadTable gives it.
func (m *machine) ptuuid() string { return strings.TrimPrefix(m.id, "0x") }

// find returns the first partition that is so.
func (m *machine) find(is func(partition) bool) partition {
	return m.parts[slices.IndexFunc(m.parts, is)]
}

func (m *machine) root() partition    { return m.find(func(p partition) bool { return p.root }) }
func (m *machine) release() partition { return m.find(func(p partition) bool { return p.release }) }

// needs is what the stand-in has to hold.
type needs struct {
	diskBytes     int64 // at least
	releaseBytes  int64
	retainedBytes int64
	has           func(module string) bool // whether the initrd has a driver
}

// planMachine lays the stand-in out as the configuration names its parts. What
// cannot be so is an error that names the setting.
func planMachine(c *config.Config, n needs) (*machine, error) {
	m := &machine{label: "dos"}
	p := &planner{machine: m}
	err := errors.Join(p.target(c.Target.Disk), p.claims(c))
	if err == nil {
		err = p.chooseBus(n.has)
	}
	if err == nil {
		err = p.identify(c.Target.Disk)
	}
	if err == nil {
		err = p.number()
	}
	if err != nil {
		return nil, fmt.Errorf("plan the machine that stands in: %w", err)
	}
	p.layOut(n)
	return m, nil
}

// planner fills in a machine.
type planner struct {
	*machine
	diskName string // "/dev/sda"; "": not fixed
	mbrID    string // fixed by a PARTUUID
}

// setting names a place in the configuration.
func setting(name string, value any, format string, args ...any) error {
	return report.Hint(fmt.Errorf("%s = %q: %s", name, value, fmt.Sprintf(format, args...)),
		"prove has one disk: /dev/sda, /dev/vda or /dev/nvme0n1; name things by UUID=, LABEL= or their number on the target")
}

var kernelName = regexp.MustCompile(`^(/dev/(?:sd[a-z]+|vd[a-z]+|nvme\d+n\d+))(?:p?(\d+))?$`)

// onDisk takes a name such as /dev/sda5 apart and fixes what the disk is called.
func (p *planner) onDisk(what, path string) (number int, err error) {
	parts := kernelName.FindStringSubmatch(path)
	if parts == nil || !slices.Contains([]string{"/dev/sda", "/dev/vda", "/dev/nvme0n1"}, parts[1]) {
		return 0, setting(what, path, "no such device in the machine that stands in")
	}
	if p.diskName != "" && p.diskName != parts[1] {
		return 0, setting(what, path, "another disk than %s, which is named too", p.diskName)
	}
	p.diskName = parts[1]
	if parts[2] != "" {
		number, err = strconv.Atoi(parts[2])
	}
	return number, err
}

func (p *planner) target(d config.Disk) error {
	const what = "target.disk"
	switch d.Kind {
	case config.DiskByPath:
		number, err := p.onDisk(what, d.Value)
		if err == nil && number != 0 {
			err = setting(what, d, "it is a partition")
		}
		return err
	case config.DiskBySerial:
		// ATA has 20 characters (ACS-4, IDENTIFY DEVICE), as QEMU's other disks have.
		if len(d.Value) > 20 {
			return setting(what, d, "a disk of QEMU has a serial number of at most 20 characters")
		}
		p.serial = d.Value
	case config.DiskByWWN:
		if !regexp.MustCompile(`^0x[0-9a-f]{16}$`).MatchString(d.Value) {
			return setting(what, d, "a disk of QEMU has a WWN of 0x and 16 hexadecimal digits")
		}
		p.wwn = d.Value
	}
	return nil
}

// claims makes a partition of everything that the configuration names.
func (p *planner) claims(c *config.Config) error {
	root, err := p.claim("old.root", c.Old.Root)
	if err != nil {
		return err
	}
	p.parts[root].root = true
	var dirs []string
	for dir := range c.Old.Mounts {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	for _, dir := range dirs {
		i, err := p.claim("old.mounts: "+dir, c.Old.Mounts[dir])
		if err != nil {
			return err
		}
		p.parts[i].mounts = append(p.parts[i].mounts, dir)
	}
	// The job names the release, whatever image.source says: a place that the
	// stand-in does not have is no reason to refuse.
	diskName, mbrID := p.diskName, p.mbrID
	i, err := p.claim("image.source", c.Image.Source.Device)
	if err != nil {
		p.diskName, p.mbrID = diskName, mbrID
		i, err = p.claim("image.source", config.Device{})
	}
	if err == nil {
		p.parts[i].release = true
	}
	return err
}

var guid = regexp.MustCompile(`(?i)^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// claim returns the partition that a device names, making it if it is new.
func (p *planner) claim(what string, d config.Device) (int, error) {
	var want partition
	var err error
	switch d.Kind {
	case config.ByNumber:
		want.number = d.Number()
	case config.ByPath:
		if want.number, err = p.onDisk(what, d.Value); err == nil && want.number == 0 {
			err = setting(what, d, "it is no partition")
		}
	case config.ByUUID:
		if want.uuid = strings.ToLower(d.Value); !guid.MatchString(d.Value) {
			err = setting(what, d, "the stand-in's filesystems are ext4, whose UUIDs have 32 hexadecimal digits")
		}
	case config.ByLabel:
		if want.label = d.Value; len(d.Value) > 16 {
			err = setting(what, d, "the stand-in's filesystems are ext4, whose labels have at most 16 bytes")
		}
	case config.ByPartUUID:
		err = p.partUUID(what, d, &want)
	case config.ByPartLabel:
		if want.name = d.Value; len(d.Value) > 36 {
			err = setting(what, d, "a GPT has names of at most 36 characters")
		} else {
			p.machine.label = "gpt"
		}
	}
	if err != nil {
		return 0, err
	}
	if !d.IsZero() {
		for i, q := range p.parts {
			if q.number == want.number && q.uuid == want.uuid && q.label == want.label && q.partUUID == want.partUUID && q.name == want.name {
				return i, nil
			}
		}
	}
	p.parts = append(p.parts, want)
	return len(p.parts) - 1, nil
}

// partUUID tells a GPT's GUID from an MBR's "12345678-05": the disk's id and the
// partition's number (kernel, block/partitions/msdos.c).
func (p *planner) partUUID(what string, d config.Device, want *partition) error {
	value := strings.ToLower(d.Value)
	if guid.MatchString(value) {
		want.partUUID, p.machine.label = value, "gpt"
		return nil
	}
	id, number, ok := strings.Cut(value, "-")
	n, err := strconv.ParseUint(number, 16, 8)
	if !ok || len(id) != 8 || strings.Trim(id, "0123456789abcdef") != "" || err != nil || n == 0 {
		return setting(what, d, "it is neither a GPT's UUID nor an MBR's")
	}
	if p.mbrID != "" && p.mbrID != id {
		return setting(what, d, "another disk than that of PARTUUID=%s-…, which is named too", p.mbrID)
	}
	p.mbrID, want.number = id, int(n)
	return nil
}

// chooseBus takes the bus that the disk's name implies, or one that the initrd has a
// driver for.
func (p *planner) chooseBus(has func(string) bool) error {
	buses := []struct {
		bus          vm.Bus
		disk, module string
	}{{vm.AHCI, "/dev/sda", "ahci"}, {vm.VirtIO, "/dev/vda", "virtio_blk"}, {vm.NVMe, "/dev/nvme0n1", "nvme"}}
	for _, b := range buses {
		if p.diskName == b.disk {
			p.bus = b.bus
		}
	}
	if p.bus == "" {
		p.bus = vm.AHCI // as good as any where all drivers are built in
		for _, b := range buses {
			if has(b.module) {
				p.bus = b.bus
				break
			}
		}
	}
	return nil
}

// identify gives disk and table what they are known by.
func (p *planner) identify(target config.Disk) error {
	if p.wwn != "" && p.bus != vm.AHCI {
		return setting("target.disk", target, "only the stand-in's SATA disk has a WWN, and this one is %s", p.bus)
	}
	if p.serial == "" {
		p.serial = "PROVE" + rand.Text()[:8]
	}
	p.id = "0x" + newUUID()[:8]
	if p.mbrID != "" {
		if p.label == "gpt" {
			return fmt.Errorf("PARTUUID=%s-… is that of an MBR disk, and a GPT's names are there too", p.mbrID)
		}
		p.id = "0x" + p.mbrID
	}
	if p.label == "gpt" {
		p.id = newUUID()
	}
	return nil
}

// number gives every partition a number, and an MBR disk its extended partition
// and the logical ones that have to be there before those that are named.
func (p *planner) number() error {
	most, taken := 128, map[int]bool{}
	if p.label == "dos" {
		most = 60 // libfdisk/src/dos.c: MAXIMUM_PARTS
	}
	for _, q := range p.parts {
		if q.number > most {
			return fmt.Errorf("partition %d: a table of kind %s has at most %d here", q.number, p.label, most)
		}
		if q.number != 0 && taken[q.number] {
			return fmt.Errorf("partition %d is named in two ways; prove cannot know that they mean the same", q.number)
		}
		taken[q.number] = q.number != 0
	}
	last := slices.MaxFunc(p.parts, func(a, b partition) int { return a.number - b.number }).number
	if p.label == "dos" && (last > 4 || len(p.parts) > 4) {
		extended := 4
		for extended > 0 && taken[extended] {
			extended--
		}
		if extended == 0 {
			return errors.New("partitions 1 to 4 are named, and others: an MBR disk needs one of these four for the others")
		}
		taken[extended] = true
		p.parts = append(p.parts, partition{number: extended, extended: true})
	}
	next := 1
	for i := range p.parts {
		if p.parts[i].number != 0 {
			continue
		}
		for taken[next] {
			next++
		}
		p.parts[i].number, taken[next] = next, true
	}
	for n := 5; p.label == "dos" && n < last; n++ {
		if !taken[n] {
			p.parts = append(p.parts, partition{number: n})
		}
	}
	slices.SortFunc(p.parts, func(a, b partition) int { return a.number - b.number })
	return nil
}

// layOut places the partitions on borders of 1 MiB: the primary ones, then the
// extended one with the logical ones in it, each behind 1 MiB for its EBR.
func (p *planner) layOut(n needs) {
	at := int64(mib)
	place := func(q *partition) {
		q.start, q.size = at, p.sizeOf(*q, n)
		at += q.size
		if (q.root || q.release || len(q.mounts) > 0) && q.uuid == "" {
			q.uuid = newUUID()
		}
	}
	var extended *partition
	for i := range p.parts {
		q := &p.parts[i]
		switch {
		case q.extended:
			extended = q
		case p.label == "gpt" || q.number <= 4:
			place(q)
		}
	}
	if extended != nil {
		extended.start = at
		for i := range p.parts {
			if q := &p.parts[i]; q.number > 4 {
				at += mib
				place(q)
			}
		}
		extended.size = at - extended.start
	}
	// The last MiB is for a GPT's backup.
	p.bytes = max(n.diskBytes, at+mib)
}

func (p *planner) sizeOf(q partition, n needs) int64 {
	size := int64(fillerMiB)
	if len(q.mounts) > 0 {
		size = max(mountMiB, 2*n.retainedBytes/mib+mountMiB)
	}
	if q.root {
		size += rootMiB + 2*n.retainedBytes/mib
	}
	if q.release {
		// ext4 takes some 2% and its journal.
		size += n.releaseBytes/mib + n.releaseBytes/mib/16 + mountMiB
	}
	return size * mib
}

// String describes the stand-in in a few words.
func (m *machine) String() string {
	return fmt.Sprintf("a disk of %s (%s, %s)", disk.Size(m.bytes), m.bus, m.label)
}

// newUUID is a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails: crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
