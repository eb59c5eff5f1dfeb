package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"reimager/report"
)

// ManifestFormat is the version of manifest.json that is written and read here. A
// field that an older reader must not overlook raises it; others may be added.
const ManifestFormat = 1

// Manifest says what a release is. It is what is signed: everything else in the
// release is held to its digests.
type Manifest struct {
	Format  int    `json:"format"`
	Name    string `json:"name"`
	Version string `json:"version"`
	// Counter grows with each release of that name, whatever the versions are called.
	Counter int64 `json:"counter"`
	// Compatible names the kinds of machines that it is for; none: not checked.
	Compatible []string     `json:"compatible,omitempty"`
	Image      ImageFile    `json:"image"`
	Map        File         `json:"map"`
	Kernel     *KernelFile  `json:"kernel,omitempty"`
	Initrd     *InitrdFile  `json:"initrd,omitempty"`
	Disk       Disk         `json:"disk"`
	Memory     MemoryNeed   `json:"memory"`
	System     *SystemFacts `json:"system,omitempty"`
}

// File is a file of the release.
type File struct {
	Name   string `json:"file"` // in the release's directory
	Bytes  int64  `json:"bytes"`
	SHA256 Digest `json:"sha256"`
}

// ImageFile is the compressed image.
type ImageFile struct {
	File
	Format      Format `json:"format"`
	RawBytes    int64  `json:"raw_bytes"`    // decoded
	RawSHA256   Digest `json:"raw_sha256"`   // decoded, with whatever lies outside the map
	MappedBytes int64  `json:"mapped_bytes"` // of the decoded image
}

// KernelFile is the kernel that boots the initrd.
type KernelFile struct {
	File
	Version string `json:"version"` // as uname -r prints it
}

// InitrdFile is the initrd of imagebuild.
type InitrdFile struct {
	File
	RawBytes int64 `json:"raw_bytes"` // unpacked
}

// Disk is what the image needs of a disk.
type Disk struct {
	MinBytes   int64    `json:"min_bytes"`
	SectorSize int      `json:"sector_size"` // logical, in bytes
	Table      string   `json:"table"`       // "mbr" or "gpt"
	Firmware   []string `json:"firmware"`    // what can boot it: "bios", "uefi"
	// Partitions are those of the table; none: nobody looked.
	Partitions []Partition `json:"partitions,omitempty"`
	// EBRs are where the sectors lie that chain an MBR's logical partitions together, in bytes.
	EBRs []int64 `json:"ebrs,omitempty"`
}

// Partition is an entry of the image's partition table.
type Partition struct {
	Number   int    `json:"partition"`
	Start    int64  `json:"start"` // bytes
	Bytes    int64  `json:"bytes"`
	Type     string `json:"type"`               // MBR: two hexadecimal digits; GPT: the type's GUID
	Extended bool   `json:"extended,omitempty"` // an MBR container of logical partitions
}

// MemoryNeed is the RAM that a run needs, in bytes, without what is retained.
type MemoryNeed struct {
	Bytes int64 `json:"bytes"`
}

// SystemFacts is what the image's own system is: it decides beforehand whether a
// machine's files will fit it.
type SystemFacts struct {
	Root        int               `json:"root,omitempty"`       // its partition
	OSRelease   map[string]string `json:"os_release,omitempty"` // os-release(5)
	FSTab       string            `json:"fstab,omitempty"`
	Filesystems []FilesystemFacts `json:"filesystems"`
	UEFILoader  []string          `json:"uefi_loader,omitempty"` // on its EFI system partitions, such as /EFI/BOOT/BOOTX64.EFI
	// UEFISigned are those of them that carry a signature for Secure Boot; empty: none
	// does; nil: nobody looked.
	UEFISigned []string          `json:"uefi_signed,omitzero"`
	Users      map[string]uint32 `json:"users,omitempty"`  // name → UID
	Groups     map[string]uint32 `json:"groups,omitempty"` // name → GID
	// Paths are /etc and what lies below.
	Paths map[string]string `json:"paths,omitempty"` // path → "file", "directory", "symlink", "fifo", "socket", "device"
	// Missing says why some of it is not known.
	Missing []string `json:"missing,omitempty"`
}

// ESPNotRead begins, behind the partition's number, what Missing says of an EFI system
// partition whose loaders are not known.
const ESPNotRead = "the EFI system partition is not read: "

// ESPUnread tells whether UEFILoader may lack something, since an EFI system partition
// could not be read.
func (s *SystemFacts) ESPUnread() bool {
	return s != nil && slices.ContainsFunc(s.Missing, func(m string) bool { return strings.Contains(m, ESPNotRead) })
}

// FilesystemFacts describes a filesystem of the image.
type FilesystemFacts struct {
	Partition  int    `json:"partition"`
	Type       string `json:"type"`
	UUID       string `json:"uuid,omitempty"`
	Label      string `json:"label,omitempty"`
	Bytes      int64  `json:"bytes"`
	FreeBytes  *int64 `json:"free_bytes,omitempty"`
	FreeInodes *int64 `json:"free_inodes,omitempty"`
}

// Encode returns the manifest as ParseManifest reads it.
func (m *Manifest) Encode() ([]byte, error) {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return append(text, '\n'), nil
}

// ParseManifest reads and checks a manifest.
func ParseManifest(text []byte) (*Manifest, error) {
	var m Manifest
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("parse manifest: something follows it")
	}
	if m.Format != ManifestFormat {
		return nil, report.Hint(fmt.Errorf("parse manifest: format %d, expected %d", m.Format, ManifestFormat), "the release was made by another version of imagebuild; use the reimager that belongs to it")
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	return &m, nil
}

// check refuses a manifest that is well-formed but means nothing.
func (m *Manifest) check() error {
	var all []error
	seen := map[string]bool{}
	file := func(what string, f File) {
		switch {
		case f.Name == "" || f.Name != path.Base(f.Name) || f.Name == "." || f.Name == ".." || strings.ContainsRune(f.Name, 0):
			all = append(all, fmt.Errorf("%s.file = %q: expected the name of a file in the release", what, f.Name))
		case f.Name == ManifestName || f.Name == ManifestName+SignatureSuffix || seen[f.Name]:
			all = append(all, fmt.Errorf("%s.file = %q: it is another file of the release", what, f.Name))
		case f.Bytes <= 0:
			all = append(all, fmt.Errorf("%s.bytes = %d: expected more", what, f.Bytes))
		case f.SHA256 == Digest{}:
			all = append(all, fmt.Errorf("%s.sha256 is missing", what))
		}
		seen[f.Name] = true
	}
	file("image", m.Image.File)
	file("map", m.Map)
	if m.Kernel != nil {
		file("kernel", m.Kernel.File)
	}
	if m.Initrd != nil {
		file("initrd", m.Initrd.File)
	}
	if m.Name == "" || m.Version == "" {
		all = append(all, fmt.Errorf("name = %q, version = %q: expected both", m.Name, m.Version))
	}
	if s := m.Disk.SectorSize; s != 512 && s != 4096 {
		all = append(all, fmt.Errorf("disk.sector_size = %d: expected 512 or 4096", s))
	} else if m.Image.RawBytes <= 0 || m.Image.RawBytes%int64(s) != 0 {
		all = append(all, fmt.Errorf("image.raw_bytes = %d: expected a whole number of sectors of %d bytes", m.Image.RawBytes, s))
	}
	if m.Disk.MinBytes < m.Image.RawBytes {
		all = append(all, fmt.Errorf("disk.min_bytes = %d: expected at least the image's %d", m.Disk.MinBytes, m.Image.RawBytes))
	}
	for _, p := range m.Disk.Partitions {
		if p.Number < 1 || p.Start < 0 || p.Bytes < 0 || !p.Extended && p.Start > m.Disk.MinBytes-p.Bytes {
			all = append(all, fmt.Errorf("disk.partitions: partition %d of %d bytes at %d is not on a disk of %d", p.Number, p.Bytes, p.Start, m.Disk.MinBytes))
		}
	}
	return errors.Join(all...)
}

// CheckDisk tells whether the image can be written to a disk of that size.
func (m *Manifest) CheckDisk(what string, bytes int64, sectorSize int) error {
	if sectorSize != m.Disk.SectorSize {
		return report.Hint(fmt.Errorf("%s has sectors of %d bytes, release %s is for sectors of %d", what, sectorSize, m, m.Disk.SectorSize),
			"a partition table counts in sectors: build an image for this kind of disk")
	}
	if bytes < m.Disk.MinBytes {
		return report.Hint(fmt.Errorf("%s has %d bytes, release %s needs %d", what, bytes, m, m.Disk.MinBytes), "use a smaller image, or a larger disk")
	}
	return nil
}

// CheckCompatible tells whether a machine of these kinds may take the release.
// A machine that names none takes any.
func (m *Manifest) CheckCompatible(machine []string) error {
	if len(machine) == 0 {
		return nil
	}
	for _, want := range machine {
		for _, is := range m.Compatible {
			if is == want {
				return nil
			}
		}
	}
	return report.Hint(fmt.Errorf("release %s is for %q, this machine is %q", m, m.Compatible, machine),
		"pack it with --compatible, or correct [machine] compatible")
}

// String names the release.
func (m *Manifest) String() string { return m.Name + " " + m.Version }
