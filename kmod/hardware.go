package kmod

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"reimager/report"
)

// HardwareFormat is the version of the hardware file.
const HardwareFormat = 1

// HardwareAbout tells in the file what it is.
const HardwareAbout = "the hardware of a machine, by `reimager hardware`; imagebuild initrd reads it through machine.modules in reimager.toml"

// maxHardware bounds a hardware file in bytes; a server has some 20 KiB.
const maxHardware = 4 << 20

// Hardware is what `reimager hardware` writes on a machine, so that imagebuild bakes
// the modules that this kind of machine needs: JSON, read back without unknown fields.
type Hardware struct {
	Format int    `json:"format"`
	About  string `json:"about"`
	// Vendor, Product, Board are the machine's, by its firmware; for reading only.
	Vendor  string `json:"vendor,omitempty"`
	Product string `json:"product,omitempty"`
	Board   string `json:"board,omitempty"`
	// Kernel is the one that ran, as uname -r.
	Kernel string         `json:"kernel"`
	Disks  []HardwareDisk `json:"disks"`
	// Filesystems are the drivers of those that were mounted from the disks.
	Filesystems []string `json:"filesystems"`
	// Modaliases are what all devices of the machine ask for.
	Modaliases []string `json:"modaliases"`
}

// HardwareDisk is a disk and what drives it.
type HardwareDisk struct {
	Name      string `json:"name"`
	Model     string `json:"model,omitempty"`
	Removable bool   `json:"removable,omitempty"`
	Way       []Step `json:"way"`
}

// Step is a device on the way to a disk.
type Step struct {
	Device   string `json:"device"` // below /sys/devices
	Modalias string `json:"modalias,omitempty"`
	Driver   string `json:"driver"`
	Module   string `json:"module,omitempty"` // none: the driver was built into the kernel
}

// Encode writes the file as ParseHardware reads it.
func (h *Hardware) Encode(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(h); err != nil {
		return fmt.Errorf("write hardware: %w", err)
	}
	return nil
}

// ParseHardware reads and checks a hardware file. name is used in errors.
func ParseHardware(name string, data []byte) (*Hardware, error) {
	h := &Hardware{}
	if err := h.parse(data); err != nil {
		return nil, report.Hint(fmt.Errorf("read hardware %s: %w", name, err), "write it on the machine with reimager hardware -o FILE")
	}
	return h, nil
}

func (h *Hardware) parse(data []byte) error {
	if len(data) > maxHardware {
		return fmt.Errorf("%d bytes, expected at most %d", len(data), maxHardware)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(h); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows it")
	}
	if h.Format != HardwareFormat {
		return fmt.Errorf("format %d, expected %d", h.Format, HardwareFormat)
	}
	for _, d := range h.Disks {
		for _, s := range d.Way {
			if s.Module != "" && !validName(normalize(s.Module)) {
				return fmt.Errorf("disk %q: %q is no module's name", clip(d.Name), clip(s.Module))
			}
			if s.Modalias != "" && !validAlias(s.Modalias) {
				return fmt.Errorf("disk %q: modalias %q has spaces", clip(d.Name), clip(s.Modalias))
			}
		}
	}
	for _, f := range h.Filesystems {
		if !validName(f) {
			return fmt.Errorf("filesystem %q is none", clip(f))
		}
	}
	for _, m := range h.Modaliases {
		if !validAlias(m) {
			return fmt.Errorf("modalias %q is empty or has spaces", clip(m))
		}
	}
	return nil
}

// Wants is what an initrd for this machine has to have: the modules on the way to its
// disks, and their filesystems. Where the tree has more that the same devices ask for,
// other controllers of storage, USB for a stick, and filesystems that a new system may
// have, it is taken along and loaded on demand.
func (h *Hardware) Wants() []Want {
	var all []Want
	add := func(want Want) {
		for _, have := range all {
			if have.Name == want.Name {
				return
			}
		}
		all = append(all, want)
	}
	for _, d := range h.Disks {
		for _, s := range d.Way {
			if s.Module != "" {
				add(Want{Name: normalize(s.Module), Optional: d.Removable})
			}
		}
	}
	for _, f := range h.Filesystems {
		add(Want{Name: f})
	}
	for _, d := range h.Disks {
		for _, s := range d.Way {
			if s.Modalias != "" {
				add(Want{Name: s.Modalias, Optional: true, OnDemand: true})
			}
		}
	}
	for _, m := range h.Modaliases {
		if isStorage(m) {
			add(Want{Name: m, Optional: true, OnDemand: true})
		}
	}
	for _, name := range []string{"sd_mod", "usb_storage", "uas", "ext4", "xfs", "btrfs", "vfat", "nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8"} {
		add(Want{Name: name, Optional: true, OnDemand: true})
	}
	return all
}

// isStorage knows by its modalias what may carry a disk: PCI classes 01 (storage) and
// 0c03 (USB), and the mass storage class 08 of USB. The forms are those of the kernel's
// scripts/mod/file2alias.c.
func isStorage(modalias string) bool {
	switch {
	case strings.HasPrefix(modalias, "pci:"):
		return strings.Contains(modalias, "bc01sc") || strings.Contains(modalias, "bc0Csc03")
	case strings.HasPrefix(modalias, "usb:"):
		return strings.Contains(modalias, "ic08isc")
	}
	return false
}
