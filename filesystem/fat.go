package filesystem

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

// Loader is a program on an EFI system partition. It reads the program's bytes; an error
// of it that is no io.EOF means that the partition makes no sense there, or that the
// image could not be read.
type Loader struct {
	io.ReaderAt
	// Path such as /EFI/BOOT/BOOTX64.EFI: of short names, which FAT keeps in capitals
	// and compares without case.
	Path string
}

// UEFILoaders returns the programs in the folder EFI of an EFI system partition and the
// folders below it. why says what could not be read; an error means that the image could
// not be, or ctx has ended.
func UEFILoaders(ctx context.Context, image io.ReaderAt, off, size int64) (loaders []Loader, why string, err error) {
	f, err := openFAT(&partition{ctx: ctx, r: image, off: off, size: size})
	if err == nil {
		loaders, err = f.loaders()
	}
	var d *doubt
	if errors.As(err, &d) {
		return loaders, d.text, nil
	}
	return loaders, "", err
}

// fat is a FAT filesystem: Microsoft's FAT specification (fatgen103), sections 3, 4, 6.
type fat struct {
	p        *partition
	bits     int // of an entry of the FAT: 12, 16, 32
	cluster  int64
	clusters int64
	table    int64  // offset of the first FAT
	data     int64  // offset of cluster 2
	root     int64  // FAT12, FAT16: offset of the root directory
	rootSize int64  // and its bytes
	rootAt   uint32 // FAT32: its first cluster
}

func openFAT(p *partition) (*fat, error) {
	b, err := p.read(0, 512)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	sector, perCluster, reserved, fats := int64(le.Uint16(b[11:])), int64(b[13]), int64(le.Uint16(b[14:])), int64(b[16])
	sectors, perFAT := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(b[32:]))
	}
	f := &fat{p: p, cluster: sector * perCluster, table: reserved * sector, rootSize: int64(le.Uint16(b[17:])) * 32}
	// As Linux and EDK2 tell FAT32, whatever the number of clusters.
	if perFAT == 0 {
		f.bits, perFAT, f.rootAt = 32, int64(le.Uint32(b[36:])), le.Uint32(b[44:])
	}
	if !powerBetween(sector, 512, 4096) || !powerBetween(perCluster, 1, 128) || reserved == 0 || fats == 0 || perFAT == 0 || sectors*sector > p.size {
		return nil, doubtf("its boot sector makes no sense")
	}
	f.root = f.table + fats*perFAT*sector
	f.data = f.root + (f.rootSize+sector-1)/sector*sector
	f.clusters = (sectors*sector - f.data) / f.cluster
	switch {
	case f.data > sectors*sector:
		return nil, doubtf("its FATs are larger than it is")
	case f.bits == 0 && f.clusters > 0xff4: // MAX_FAT12 in include/linux/msdos_fs.h
		f.bits = 16
	case f.bits == 0:
		f.bits = 12
	}
	return f, nil
}

// next returns the cluster behind one; false at the end of the chain.
func (f *fat) next(cluster uint32) (uint32, bool, error) {
	bit := int64(cluster) * int64(f.bits)
	b, err := f.p.read(f.table+bit/8, int64(f.bits+7)/8)
	if err != nil {
		return 0, false, err
	}
	var n uint32
	switch f.bits {
	case 12:
		n = uint32(binary.LittleEndian.Uint16(b)) >> (bit % 8) & 0xfff
	case 16:
		n = uint32(binary.LittleEndian.Uint16(b))
	case 32:
		n = binary.LittleEndian.Uint32(b) & 0x0fffffff
	}
	end := uint32(1)<<min(f.bits, 28) - 8
	return n, n < end, nil
}

// maxFATDirectory bounds what is read of one: 65,536 entries (fatgen103, section 6).
const maxFATDirectory = 65536 * 32

// directory reads the content of one from its first cluster on, and up to limit bytes.
func (f *fat) directory(first uint32, limit int64) ([]byte, error) {
	var content []byte
	for at, more := first, true; more && int64(len(content)) < limit; {
		if at < 2 || int64(at)-2 >= f.clusters {
			return nil, doubtf("cluster %d is none of its %d", at, f.clusters)
		}
		b, err := f.p.read(f.data+int64(at-2)*f.cluster, f.cluster)
		if err != nil {
			return nil, err
		}
		content = append(content, b...)
		if at, more, err = f.next(at); err != nil {
			return nil, err
		}
	}
	return content, nil
}

type fatEntry struct {
	name  string
	dir   bool
	first uint32
	bytes int64
}

// fatFile reads a file along its chain of clusters, as far as that was followed.
type fatFile struct {
	f     *fat
	bytes int64
	chain []uint32
}

// ReadAt implements io.ReaderAt. It is not for use by two at once.
func (r *fatFile) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, doubtf("offset %d of a file", off)
	}
	done := 0
	for done < len(b) {
		if off >= r.bytes {
			return done, io.EOF
		}
		at, err := r.clusterAt(off / r.f.cluster)
		if err != nil {
			return done, err
		}
		inside := off % r.f.cluster
		n := min(int64(len(b)-done), r.f.cluster-inside, r.bytes-off)
		piece, err := r.f.p.read(r.f.data+int64(at-2)*r.f.cluster+inside, n)
		if err != nil {
			return done, err
		}
		copy(b[done:], piece)
		done, off = done+int(n), off+n
	}
	return done, nil
}

// clusterAt returns a cluster of the chain. A chain has no more than the filesystem.
func (r *fatFile) clusterAt(index int64) (uint32, error) {
	for index >= int64(len(r.chain)) {
		at, more, err := r.f.next(r.chain[len(r.chain)-1])
		if err != nil {
			return 0, err
		}
		if !more || int64(len(r.chain)) >= r.f.clusters {
			return 0, doubtf("a file ends after %d clusters", len(r.chain))
		}
		r.chain = append(r.chain, at)
	}
	at := r.chain[index]
	if at < 2 || int64(at)-2 >= r.f.clusters {
		return 0, doubtf("cluster %d is none of its %d", at, r.f.clusters)
	}
	return at, nil
}

// entriesOfFAT are the files and folders of a directory's content.
func entriesOfFAT(content []byte) []fatEntry {
	const deleted, volumeOrLong, directory = 0xe5, 0x08, 0x10
	var all []fatEntry
	for ; len(content) >= 32 && content[0] != 0; content = content[32:] {
		if content[0] == deleted || content[0] == '.' || content[11]&volumeOrLong != 0 {
			continue
		}
		name := strings.TrimRight(string(content[:8]), " ")
		if extension := strings.TrimRight(string(content[8:11]), " "); extension != "" {
			name += "." + extension
		}
		le := binary.LittleEndian
		all = append(all, fatEntry{strings.ToUpper(name), content[11]&directory != 0,
			uint32(le.Uint16(content[20:]))<<16 | uint32(le.Uint16(content[26:])), int64(le.Uint32(content[28:]))})
	}
	return all
}

// loaders walks EFI, as deep as vendors go, and no folder twice. A filesystem with more
// folders or loaders than any vendor makes is not believed.
func (f *fat) loaders() ([]Loader, error) {
	const depth, folders, most = 4, 200, 200
	root, err := f.rootDirectory()
	if err != nil {
		return nil, err
	}
	var found []Loader
	seen := map[uint32]bool{}
	var walk func(path string, content []byte, depth int) error
	walk = func(path string, content []byte, depth int) error {
		for _, e := range entriesOfFAT(content) {
			name := path + "/" + e.name
			switch {
			case path == "" && !(e.dir && e.name == "EFI"), seen[e.first] && e.dir:
			case e.dir && len(seen) == folders:
				return doubtf("it has more than %d folders", folders)
			case e.dir && depth > 0:
				seen[e.first] = true
				content, err := f.directory(e.first, maxFATDirectory)
				if err == nil {
					err = walk(name, content, depth-1)
				}
				if err != nil {
					return err
				}
			case !e.dir && strings.HasSuffix(e.name, ".EFI"):
				// Only what begins as a program does: UEFI 2.10, 2.1.1, PE/COFF.
				content, err := f.directory(e.first, 1)
				if err != nil {
					return err
				}
				if strings.HasPrefix(string(content), "MZ") && printable(name) {
					found = append(found, Loader{&fatFile{f, e.bytes, []uint32{e.first}}, name})
				}
				if len(found) > most {
					return doubtf("it has more than %d loaders", most)
				}
			}
		}
		return nil
	}
	return found, walk("", root, depth)
}

func (f *fat) rootDirectory() ([]byte, error) {
	if f.bits == 32 {
		return f.directory(f.rootAt, maxFATDirectory)
	}
	return f.p.read(f.root, f.rootSize)
}

// printable keeps names of another code page out of the manifest.
func printable(name string) bool {
	return !strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f })
}
