package network

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// naming is how the new system names its cards.
type naming struct {
	predictable bool            // by systemd.net-naming-scheme(7); else the kernel's names stay
	why         string          // what decides it
	altNames    bool            // predictable names are alternative ones, whatever net.ifnames is
	named       map[string]bool // names that rules give to cards
	biosdevname bool            // is there and may give names of its own
	doubt       bool            // what is there is not understood
}

// naming reads the new system's kernel parameters, udev rules and link files.
func (s *system) naming() naming {
	by := naming{named: map[string]bool{}}
	ifnames := s.ifnames()
	by.biosdevname = s.has("/sbin/biosdevname") || s.has("/usr/sbin/biosdevname")
	rules := s.inEffect("udev/rules.d", "*.rules")
	setup := rules["80-net-setup-link.rules"] != ""
	named := setup && s.links(&by)
	s.customRules(&by)
	// RHEL 7 and eudev have a rule of their own; eudev's may ask for net.ifnames=1.
	old := rules["80-net-name-slot.rules"]
	asks := strings.Contains(old, `ENV{net.ifnames}!="1"`)
	switch {
	case !slices.ContainsFunc([]string{"/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd", "/lib/udev/udevd",
		"/sbin/udevd", "/usr/sbin/udevd", "/usr/bin/udevadm", "/bin/udevadm", "/sbin/udevadm"}, s.has):
		by = naming{why: "it has no udev", doubt: s.has("/nix/store") || s.has("/gnu/store")}
	case ifnames == "0":
		by.why = "net.ifnames=0"
	case ifnames != "1" && rules["75-persistent-net-generator.rules"] != "":
		by.why = "75-persistent-net-generator.rules" // Debian 8 and before
	case named, old != "" && (ifnames == "1" || !asks):
		by.predictable, by.why = true, "net.ifnames is not 0"
	case asks:
		by.why = "net.ifnames is not 1"
	case !setup:
		by.why = "80-net-setup-link.rules is masked or missing"
	default:
		by.why = "99-default.link is masked or missing"
	}
	by.doubt = by.doubt || ifnames == "conflict" || len(s.errs) > 0
	return by
}

var nameAssigned = regexp.MustCompile(`(?:^|[\s,])NAME:?="([^"]*)"`)

// customRules looks for names that rules such as those of 70-persistent-net.rules give.
func (s *system) customRules(by *naming) {
	for _, file := range s.list("/etc/udev/rules.d", "*.rules") {
		for line := range strings.Lines(strings.ReplaceAll(s.text(file), "\\\n", " ")) {
			match := nameAssigned.FindStringSubmatch(line)
			if match == nil || !strings.Contains(line, `"net"`) || strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			by.named[match[1]] = true
			by.doubt = by.doubt || strings.ContainsAny(match[1], "$%") // made when the card appears
		}
	}
}

// links reads the link files and tells whether cards get predictable names: the first
// file that matches a card decides, systemd.link(5).
func (s *system) links(by *naming) bool {
	files := s.inEffect("systemd/network", "*.link")
	for _, base := range slices.Sorted(maps.Keys(files)) {
		sections := ini(files[base])
		match, link := sections["Match"], sections["Link"]
		policy := strings.Fields(link["NamePolicy"])
		switch {
		case files[base] == "", len(match) == 0 && len(policy) == 0: // masked, or all comments
		case link["Name"] != "":
			by.named[link["Name"]] = true
		case matchesAll(match):
			by.altNames = predictablePolicy(strings.Fields(link["AlternativeNamesPolicy"]))
			// The card's address is not known here, and drop-ins are not read.
			by.doubt = by.doubt || slices.Contains(policy, "mac") || s.has("/etc/systemd/network/"+base+".d")
			return predictablePolicy(policy)
		case !predictablePolicy(policy) && matchesCards(match):
			by.doubt = true
		}
	}
	return false
}

func predictablePolicy(policy []string) bool {
	return slices.ContainsFunc(policy, func(p string) bool { return p == "onboard" || p == "slot" || p == "path" })
}

func matchesAll(match map[string]string) bool {
	for key, value := range match {
		if !(key == "OriginalName" && value == "*") && !(key == "Type" && strings.Contains(value, "ether")) {
			return false
		}
	}
	return true
}

// matchesCards tells whether a file for some interfaces may be for a card on PCI. The
// shipped ones for USB and for bridges, containers and the like are not.
func matchesCards(match map[string]string) bool {
	path := match["Path"]
	return match["Kind"] == "" && (path != "" && !strings.Contains(path, "usb") ||
		match["OriginalName"]+match["Driver"]+match["MACAddress"]+match["PermanentMACAddress"] != "")
}

// ifnames returns the value of net.ifnames on the new system's kernel command lines:
// GRUB's, or those of boot loader entries, or what both are made from. It is
// "conflict" if it depends on the entry that is booted.
func (s *system) ifnames() string {
	variables := map[string]string{}
	var found []string
	for _, file := range []string{"/boot/grub/grubenv", "/boot/grub2/grubenv", "/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"} {
		found = append(found, commandLines(s.text(file), variables)...)
	}
	for _, dir := range []string{"/boot", "/efi", "/boot/efi"} {
		for _, file := range s.list(dir+"/loader/entries", "*.conf") {
			found = append(found, commandLines(s.text(file), variables)...)
		}
	}
	if len(found) == 0 {
		line := s.text("/etc/kernel/cmdline")
		commandLines(s.text("/etc/default/grub"), variables)
		return parameter(line + " " + variables["GRUB_CMDLINE_LINUX_DEFAULT"] + " " + variables["GRUB_CMDLINE_LINUX"])
	}
	if slices.Sort(found); len(slices.Compact(found)) > 1 {
		return "conflict"
	}
	return found[0]
}

// maxLine bounds lines in bytes, and 16 of it what variables add to one. The kernel
// takes half of it (COMMAND_LINE_SIZE of x86).
const maxLine = 4096

// commandLines returns net.ifnames of each line that boots a root filesystem, and notes
// variables that are set. Entries to repair a system often lack what the others have.
func commandLines(text string, variables map[string]string) (found []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "set ")
		word, _, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
		switch key, value, isSet := strings.Cut(line, "="); {
		case len(line) > maxLine:
		case strings.HasPrefix(word, "linux"), word == "options":
			room := 16 * maxLine
			line = os.Expand(line, func(name string) string {
				if room -= len(variables[name]); room < 0 {
					return ""
				}
				return variables[name]
			})
			if strings.Contains(line, "root=") && !repairs.MatchString(line) { // a memory test has no root
				found = append(found, parameter(line))
			}
		case isSet:
			variables[key] = strings.Trim(value, `"'`)
		}
	}
	return found
}

var repairs = regexp.MustCompile(`\s(single|recovery|rescue|emergency|[sS1]|systemd\.unit=(rescue|emergency)\.target)(\s|$)`)

func parameter(line string) (value string) {
	for _, word := range strings.Fields(line) {
		if v, ok := strings.CutPrefix(strings.Trim(word, `"'`), "net.ifnames="); ok {
			value = v
		}
	}
	return value
}
