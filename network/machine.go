package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// machine is what sysfs tells of the network cards.
type machine struct {
	cards []card // on PCI, by address
	slots bool   // the kernel knows of numbered slots
	// Cards on the buses of Hyper-V and Xen, of a virtual machine without PCI and of a
	// device tree may keep their kernel names under any policy.
	keepsKernelNames bool
}

// card is a network card on PCI.
type card struct {
	wireless bool // or of another kind; some Ethernet cards say so too
	// names that udev may give, without prefix (en, wl) and port, in the order of
	// systemd's default policy: o1 s3 p0s3.
	names []string
}

func (m *machine) of(wireless bool) []card {
	return slices.DeleteFunc(slices.Clone(m.cards), func(c card) bool { return c.wireless != wireless })
}

type sysfs string

// attribute is "" where hardware and firmware have nothing to say, which sysfs tells
// by all kinds of errors.
func (s sysfs) attribute(name string) string {
	b, _ := os.ReadFile(filepath.Join(string(s), name))
	return strings.TrimSpace(string(b))
}

func (s sysfs) number(name string) (string, bool) {
	n, err := strconv.ParseUint(s.attribute(name), 0, 32)
	// Firmware that says more invents it: ONBOARD_16BIT_INDEX_MAX of udev's net_id.
	return strconv.FormatUint(n, 10), err == nil && n <= 65535
}

// glob returns the paths that match, none where there is no such bus.
func (s sysfs) glob(pattern string) []string {
	paths, _ := fs.Glob(os.DirFS(string(s)), pattern) // an error is one of the pattern
	return paths
}

func readMachine(dir string) (machine, error) {
	s := sysfs(dir)
	m := machine{}
	slots := map[string]string{} // number by address without function
	for _, slot := range s.glob("bus/pci/slots/*") {
		if n, err := strconv.ParseUint(path.Base(slot), 10, 32); err == nil && n > 0 {
			slots[s.attribute(slot+"/address")] = path.Base(slot)
		}
	}
	m.slots = len(slots) > 0
	devices, err := os.ReadDir(filepath.Join(dir, "bus/pci/devices"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // a machine without PCI
	}
	if err != nil {
		err = fmt.Errorf("list PCI devices: %w", err)
	}
	for _, d := range devices {
		if strings.HasPrefix(s.attribute("bus/pci/devices/"+d.Name()+"/class"), "0x02") && pciAddress.MatchString(d.Name()) {
			m.cards = append(m.cards, s.card(d.Name(), slots))
		}
	}
	other := slices.Concat(s.glob("bus/vmbus/devices/*"), s.glob("firmware/devicetree/base"),
		s.glob("bus/platform/devices/virtio-mmio*"), s.glob("bus/platform/devices/LNRO0005:*")) // the latter as ACPI calls it
	m.keepsKernelNames = len(other) > 0 ||
		s.attribute("hypervisor/type") == "xen" || s.attribute("class/dmi/id/product_name") == "Virtual Machine"
	return m, err
}

var pciAddress = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// card names a PCI device as udev's net_id does: by the firmware's index, by its slot
// or that of a bridge above, and by its place. Versions of udev differ in what they
// take into account; the names of all are here.
func (s sysfs) card(device string, slots map[string]string) (c card) {
	dir := "bus/pci/devices/" + device + "/"
	var domain, bus, slot, function int
	fmt.Sscanf(device, "%x:%x:%x.%d", &domain, &bus, &slot, &function) // the pattern above fits
	c.wireless = strings.HasPrefix(s.attribute(dir+"class"), "0x0280")
	add := func(name string) {
		if !slices.Contains(c.names, name) {
			c.names = append(c.names, name)
		}
	}
	for _, name := range []string{"acpi_index", "index"} {
		if index, ok := s.number(dir + name); ok {
			add("o" + index)
		}
	}
	prefix := ""
	if domain != 0 {
		prefix = fmt.Sprint("P", domain)
	}
	// Function 0 is named on a card that has more: bit 7 of the header type, byte 14 of
	// the configuration space.
	functions := []string{fmt.Sprint("f", function)}
	if config, err := os.ReadFile(filepath.Join(string(s), dir, "config")); function == 0 && (err != nil || len(config) < 15) {
		functions = []string{"", "f0"}
	} else if function == 0 && config[14]&0x80 == 0 {
		functions = []string{""}
	}
	var numbers []string
	real, _ := filepath.EvalSymlinks(filepath.Join(string(s), dir)) // through the bridges above
	for _, part := range append(strings.Split(real, "/"), device) {
		address, _, _ := strings.Cut(part, ".")
		if number := slots[address]; number != "" {
			numbers = append(numbers, number)
		}
	}
	if number, ok := s.number(dir + "firmware_node/sun"); ok && number != "0" { // since systemd 255
		numbers = append(numbers, number)
	}
	for _, f := range functions {
		for _, number := range numbers {
			add(prefix + "s" + number + f)
		}
	}
	for _, f := range functions {
		add(fmt.Sprint(prefix, "p", bus, "s", slot, f))
	}
	return c
}
