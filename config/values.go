package config

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Choice is one word out of a few; Parse checks it.
type Choice string

// Duration is written as Go writes it: "30s", "2m".
type Duration struct{ time.Duration }

// UnmarshalText reads a duration such as "30s".
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q: expected a duration such as \"30s\"", text)
	}
	d.Duration = v
	return nil
}

// MarshalText writes the duration as UnmarshalText reads it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Modules is the name of a set ("classic", "all-storage"), a list of modules, or a file
// that `reimager hardware` has written.
type Modules struct {
	Set   string
	Names []string
	File  string // relative to the configuration; only imagebuild reads it
}

// UnmarshalTOML takes a string or a list of strings. A string with a / or that ends in
// .json names a file.
func (m *Modules) UnmarshalTOML(data []byte) error {
	var set struct{ V string }
	if toml.Unmarshal(append([]byte("V = "), data...), &set) == nil {
		switch {
		case set.V == "classic" || set.V == "all-storage":
			*m = Modules{Set: set.V}
		case strings.Contains(set.V, "/") || strings.HasSuffix(set.V, ".json"):
			*m = Modules{File: set.V}
		default:
			return fmt.Errorf("modules = %q: expected \"classic\", \"all-storage\", a list of module names, or a file of reimager hardware (./NAME or NAME.json)", set.V)
		}
		return nil
	}
	var list struct{ V []string }
	if toml.Unmarshal(append([]byte("V = "), data...), &list) != nil {
		return fmt.Errorf("modules = %s: expected a string or a list of strings", data)
	}
	for _, name := range list.V {
		if name == "" {
			return fmt.Errorf("modules = %s: a module name is empty", data)
		}
	}
	*m = Modules{Names: list.V}
	return nil
}

// DeviceKind says how a Device names a filesystem or partition.
type DeviceKind string

// The ways to name a filesystem or partition.
const (
	ByPath      DeviceKind = "path"      // /dev/sda5
	ByUUID      DeviceKind = "UUID"      // of the filesystem
	ByLabel     DeviceKind = "LABEL"     // of the filesystem
	ByPartUUID  DeviceKind = "PARTUUID"  // of the partition-table entry
	ByPartLabel DeviceKind = "PARTLABEL" // of the GPT entry
	ByNumber    DeviceKind = "partition" // "partition 2" of the target
)

// Device names a filesystem or a partition. Its zero value names none.
type Device struct {
	Kind  DeviceKind
	Value string
}

// IsZero tells whether no device is named.
func (d Device) IsZero() bool { return d.Kind == "" }

// String returns the device as the configuration writes it.
func (d Device) String() string {
	switch d.Kind {
	case "", ByPath:
		return d.Value
	case ByNumber:
		return "partition " + d.Value
	}
	return string(d.Kind) + "=" + d.Value
}

// Number returns the partition number of a ByNumber device.
func (d Device) Number() int {
	n, _ := strconv.Atoi(d.Value) // UnmarshalText has checked it
	return n
}

// ParseDevice reads "/dev/sda5", "UUID=…", "LABEL=…", "PARTUUID=…",
// "PARTLABEL=…" or "partition 2".
func ParseDevice(s string) (Device, error) {
	if n, ok := strings.CutPrefix(s, "partition "); ok {
		if v, err := strconv.Atoi(n); err != nil || v < 1 || v > 255 {
			return Device{}, fmt.Errorf("%q: expected a partition number from 1 to 255", s)
		}
		return Device{ByNumber, n}, nil
	}
	if kind, value, ok := strings.Cut(s, "="); ok && !strings.HasPrefix(s, "/") {
		switch k := DeviceKind(kind); k {
		case ByUUID, ByLabel, ByPartUUID, ByPartLabel:
			if value = strings.Trim(value, `"`); value != "" {
				return Device{k, value}, nil
			}
		}
	}
	for prefix, kind := range map[string]DeviceKind{
		"/dev/disk/by-uuid/": ByUUID, "/dev/disk/by-label/": ByLabel,
		"/dev/disk/by-partuuid/": ByPartUUID, "/dev/disk/by-partlabel/": ByPartLabel,
	} {
		// No udev runs in the initrd, so these links are read for what they say.
		if value, ok := strings.CutPrefix(s, prefix); ok && value != "" {
			return Device{kind, value}, nil
		}
	}
	if strings.HasPrefix(s, "/dev/") && path.Clean(s) == s && len(s) > len("/dev/") {
		return Device{ByPath, s}, nil
	}
	return Device{}, fmt.Errorf("%q: expected /dev/NAME, UUID=, LABEL=, PARTUUID=, PARTLABEL= or \"partition N\"", s)
}

// UnmarshalText is ParseDevice; an empty text names no device.
func (d *Device) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = Device{}
		return nil
	}
	v, err := ParseDevice(string(text))
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// MarshalText writes the device as UnmarshalText reads it.
func (d Device) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Source is a file on a filesystem: "DEVICE:/path".
type Source struct {
	Device Device
	Path   string // absolute, on that filesystem
}

// IsZero tells whether no file is named.
func (s Source) IsZero() bool { return s.Device.IsZero() }

// String returns the source as the configuration writes it.
func (s Source) String() string {
	if s.IsZero() {
		return ""
	}
	return s.Device.String() + ":" + s.Path
}

// ParseSource reads "DEVICE:/path". The path starts at the first ":/" so that
// it may itself contain colons.
func ParseSource(s string) (Source, error) {
	i := strings.Index(s, ":/")
	if i < 0 {
		return Source{}, fmt.Errorf("%q: expected DEVICE:/path, for example /dev/sda5:/images/new.img.bz2", s)
	}
	dev, err := ParseDevice(s[:i])
	if err != nil {
		return Source{}, err
	}
	p := s[i+1:]
	if !cleanAbsolute(p) || p == "/" {
		return Source{}, fmt.Errorf("%q: expected an absolute path without \"..\" behind the device", s)
	}
	return Source{dev, p}, nil
}

// UnmarshalText is ParseSource; an empty text names no file.
func (s *Source) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*s = Source{}
		return nil
	}
	v, err := ParseSource(string(text))
	if err != nil {
		return err
	}
	*s = v
	return nil
}

// MarshalText writes the source as UnmarshalText reads it.
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// DiskKind says how a Disk is identified.
type DiskKind string

// The ways to name the target.
const (
	HoldsOldRoot DiskKind = "holds-old-root"
	DiskByPath   DiskKind = "path"
	DiskBySerial DiskKind = "serial"
	DiskByWWN    DiskKind = "wwn"
)

// Disk names a whole disk.
type Disk struct {
	Kind  DiskKind
	Value string
}

// String returns the disk as the configuration writes it.
func (d Disk) String() string {
	switch d.Kind {
	case HoldsOldRoot:
		return string(HoldsOldRoot)
	case DiskByPath:
		return d.Value
	}
	return string(d.Kind) + "=" + d.Value
}

// Is tells whether a disk with that path, serial number and WWN is the named one.
// It is never true of HoldsOldRoot, which says nothing of a disk by itself.
func (d Disk) Is(path, serial, wwn string) bool {
	switch d.Kind {
	case DiskByPath:
		return d.Value == path
	case DiskBySerial:
		return d.Value == serial
	case DiskByWWN:
		return d.Value == wwn
	}
	return false
}

// ParseDisk reads "holds-old-root", "/dev/sda", "/dev/disk/by-id/…",
// "serial=…" or "wwn=…".
func ParseDisk(s string) (Disk, error) {
	switch {
	case s == string(HoldsOldRoot):
		return Disk{Kind: HoldsOldRoot}, nil
	case strings.HasPrefix(s, "serial=") && len(s) > len("serial="):
		return Disk{DiskBySerial, s[len("serial="):]}, nil
	case strings.HasPrefix(s, "wwn=") && len(s) > len("wwn="):
		return Disk{DiskByWWN, s[len("wwn="):]}, nil
	case strings.HasPrefix(s, "/dev/disk/by-id/"):
		return diskByID(s)
	case strings.HasPrefix(s, "/dev/") && path.Clean(s) == s && strings.Count(s, "/") == 2:
		return Disk{DiskByPath, s}, nil
	}
	return Disk{}, fmt.Errorf("%q: expected \"holds-old-root\", /dev/NAME, /dev/disk/by-id/…, serial=… or wwn=…", s)
}

// diskByID reads udev's link name for what it says, since no udev runs in the
// initrd: "wwn-0x…" is a WWN, "ata-MODEL_SERIAL" and its like end in the serial
// (systemd rules.d/60-persistent-storage.rules).
func diskByID(s string) (Disk, error) {
	name := strings.TrimPrefix(s, "/dev/disk/by-id/")
	if wwn, ok := strings.CutPrefix(name, "wwn-"); ok && wwn != "" {
		return Disk{DiskByWWN, wwn}, nil
	}
	if i := strings.LastIndexByte(name, '_'); i >= 0 && i+1 < len(name) {
		return Disk{DiskBySerial, name[i+1:]}, nil
	}
	return Disk{}, fmt.Errorf("%q: expected a link that ends in _SERIAL or starts with wwn-; use serial=… or wwn=…", s)
}

// UnmarshalText is ParseDisk.
func (d *Disk) UnmarshalText(text []byte) error {
	v, err := ParseDisk(string(text))
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// MarshalText writes the disk as UnmarshalText reads it.
func (d Disk) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
