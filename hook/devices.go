package hook

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/disk"
)

// devices are the block devices that a hook is shown.
type devices struct {
	nodes []node
	links []link // of /dev/disk
	disk  facade
}

// findDevices reads a disk for what a hook may see of it: its partitions, but not
// those that hold boot sectors. What is held back counts as written.
func findDevices(d *disk.Disk, held []disk.Piece) (devices, error) {
	found := devices{disk: facade{held: held}}
	if d == nil {
		return found, nil
	}
	table, err := found.disk.read(d)
	if err != nil {
		return found, err
	}
	for _, p := range d.Partitions {
		e, ok := table.Entry(p.Number)
		// One that begins at sector 0 would be the whole disk by another name.
		if p.Start <= 0 || ok && bootData(e) {
			continue
		}
		if err := found.add(p, e); err != nil {
			return found, err
		}
	}
	return found, nil
}

func (d *devices) add(p disk.Partition, e disk.Entry) error {
	f, err := os.Open(p.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", p.Path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return fmt.Errorf("open %s: it is no block device", p.Path)
	}
	fs, err := disk.Probe(f)
	if err != nil {
		return fmt.Errorf("probe %s: %w", p.Path, err)
	}
	name := beneathDev(p.Path)
	d.nodes = append(d.nodes, node{name, unix.S_IFBLK | 0o600, st.Rdev})
	for _, l := range []struct{ by, value string }{
		{"by-uuid", fs.UUID}, {"by-label", fs.Label}, {"by-partuuid", e.PartUUID}, {"by-partlabel", e.Name},
	} {
		if l.value != "" {
			d.links = append(d.links, link{"disk/" + l.by + "/" + encode(l.value), "/dev/" + name})
		}
	}
	return nil
}

// encode writes a label as udev does in names of links (util-linux lib/mangle.c,
// systemd's encode_devnode_name), so that none leads elsewhere.
func encode(label string) string {
	var s strings.Builder
	for i := range len(label) {
		c := label[i]
		if c >= 0x80 || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.IndexByte("#+-:=@_", c) >= 0 || c == '.' && i > 0 {
			s.WriteByte(c)
			continue
		}
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String()
}

// facade stands under the name of the disk: a read-only file of the disk's size that
// has its partition table and is empty elsewhere. grub-probe, and with it update-grub,
// reads that much of a disk and looks into filesystems through the partitions
// (grub-core/osdep/linux/hostdisk.c). A node cannot be made read-only for root: the
// kernel lets a mount's MS_RDONLY and a file's mode pass for devices.
type facade struct {
	name   string
	bytes  int64
	held   []disk.Piece // is there although the disk does not have it
	pieces []piece
}

type piece struct {
	off  int64
	data []byte
}

func (f *facade) read(d *disk.Disk) (*disk.Table, error) {
	dev, err := os.Open(d.Path)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	f.name, f.bytes = beneathDev(d.Path), d.Bytes
	// The sectors before the first partition, and the GPT's backup.
	first := make([]byte, min(GuardedBytes, d.Bytes))
	last := make([]byte, min(34*int64(d.SectorSize), d.Bytes))
	for _, p := range []piece{{0, first}, {d.Bytes - int64(len(last)), last}} {
		if _, err := f.readAt(dev, p.data, p.off); err != nil {
			return nil, fmt.Errorf("read %s: %w", d.Path, err)
		}
	}
	table, err := disk.ReadTable(recorder{f, dev}, d.SectorSize)
	if errors.Is(err, disk.ErrNoTable) {
		return &disk.Table{}, nil
	}
	return table, err
}

func (f *facade) readAt(r io.ReaderAt, p []byte, off int64) (int, error) {
	n, err := r.ReadAt(p, off)
	for _, h := range f.held {
		from, to := max(h.Off, off), min(h.Off+int64(len(h.Data)), off+int64(n))
		if from < to {
			copy(p[from-off:to-off], h.Data[from-h.Off:])
		}
	}
	f.pieces = append(f.pieces, piece{off, append([]byte(nil), p[:n]...)})
	return n, err
}

// recorder notes what is read of a disk to find its partitions.
type recorder struct {
	f *facade
	r io.ReaderAt
}

func (r recorder) ReadAt(p []byte, off int64) (int, error) { return r.f.readAt(r.r, p, off) }

// make puts the file where the disk's node would be.
func (f *facade) make(dev string) error {
	if f.name == "" {
		return nil
	}
	path := filepath.Join(dev, f.name)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	err = file.Truncate(f.bytes)
	for _, p := range f.pieces {
		if err == nil {
			_, err = file.WriteAt(p.data, p.off)
		}
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	// Mounted on itself so that it can neither be written nor replaced.
	if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	if err := unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	return nil
}
