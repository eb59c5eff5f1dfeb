package network

import (
	"regexp"
	"slices"
	"strings"
)

// mention is one place of a file that means a card by its name.
type mention struct {
	file     string
	names    []string // one of them is enough; each may be a pattern
	altNames bool     // alternative names of the card do as well
}

// findings is what the files of all network configuration say.
type findings struct {
	file     string // the one that is being read
	altNames bool   // its reader knows alternative names
	mentions []mention
	// defined are interfaces that the files make, and names that they give to a card
	// which is known by other means.
	defined map[string]bool
}

// findings reads the configuration of every program that may be there, since it is
// not known which is in use.
func (s *system) findings() *findings {
	f := &findings{defined: map[string]bool{}}
	for _, source := range []struct {
		dir, pattern string
		altNames     bool // networkd since systemd 244
		parse        func(f *findings, text string)
	}{
		{"/etc/network", "interfaces", false, (*findings).ifupdown},
		{"/etc/network/interfaces.d", "*", false, (*findings).ifupdown},
		{"/etc/systemd/network", "*.network", true, (*findings).networkd},
		{"/etc/systemd/network", "*.netdev", true, (*findings).netdev},
		{"/etc/NetworkManager/system-connections", "*", false, (*findings).networkManager},
		{"/etc/netplan", "*.yaml", true, (*findings).netplan},
		{"/etc/sysconfig/network-scripts", "ifcfg-*", false, (*findings).ifcfg},
	} {
		for _, file := range s.list(source.dir, source.pattern) {
			f.file, f.altNames = file, source.altNames
			source.parse(f, s.text(file))
		}
	}
	return f
}

var plausible = regexp.MustCompile(`^[A-Za-z0-9_.:@*?\[\]^-]{1,64}$`)

// use notes that one of these names is needed. One that no card could have is a
// negation or a mistake, and leaves in doubt what is meant.
func (f *findings) use(names ...string) {
	unclear := func(name string) bool { return !plausible.MatchString(name) }
	noted := func(m mention) bool { return m.file == f.file && slices.Equal(m.names, names) }
	if len(names) > 0 && !slices.ContainsFunc(names, unclear) && !slices.ContainsFunc(f.mentions, noted) {
		f.mentions = append(f.mentions, mention{f.file, names, f.altNames})
	}
}

// physical returns the interface beneath an alias (eth0:1) or VLAN (eth0.5).
func physical(name string) string {
	if i := strings.IndexAny(name, ".:@"); i >= 0 {
		return name[:i]
	}
	return name
}

// ifupdown reads interfaces(5) with the options of bridge-utils, ifenslave and vlan.
func (f *findings) ifupdown(text string) {
	iface := ""
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		each := words[1:]
		switch option := strings.ReplaceAll(words[0], "_", "-"); {
		case option == "iface":
			iface, each = words[1], words[1:2]
		case option == "auto", option == "mapping", strings.HasPrefix(option, "allow-"):
		case option == "bridge-ports", option == "bond-slaves", option == "slaves", option == "vlan-raw-device":
			f.defined[iface] = true
		default:
			f.defined[iface] = f.defined[iface] || strings.HasPrefix(option, "bond-") && option != "bond-master"
			continue
		}
		for _, name := range each {
			name, _, _ = strings.Cut(name, "=")  // eth0=home
			f.use(strings.TrimPrefix(name, "/")) // "/eth*"; more slashes tell of other properties
		}
	}
}

// networkd reads systemd.network(5).
func (f *findings) networkd(text string) { f.use(strings.Fields(ini(text)["Match"]["Name"])...) }

// netdev reads systemd.netdev(5).
func (f *findings) netdev(text string) { f.defined[ini(text)["NetDev"]["Name"]] = true }

// networkManager reads a keyfile, nm-settings-keyfile(5).
func (f *findings) networkManager(text string) {
	sections := ini(text)
	name := sections["connection"]["interface-name"]
	switch sections["connection"]["type"] {
	case "", "ethernet", "802-3-ethernet", "wifi", "802-11-wireless", "pppoe":
		f.use(name)
	default:
		f.defined[name] = true
	}
	f.use(strings.FieldsFunc(sections["match"]["interface-name"], func(r rune) bool { return strings.ContainsRune(";, ", r) })...)
	for _, section := range []string{"vlan", "macvlan", "pppoe"} {
		f.use(sections[section]["parent"])
	}
}

// ifcfg reads a file of network-scripts. A card with HWADDR is renamed to its DEVICE;
// NAME is what the connection is called.
func (f *findings) ifcfg(text string) {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[key] = strings.Trim(value, `"'`)
	}
	physical := []string{"", "ethernet", "wireless", "vlan"}
	if values["HWADDR"]+values["BONDING_OPTS"] != "" || !slices.Contains(physical, strings.ToLower(values["TYPE"])) {
		f.defined[values["DEVICE"]] = true
	}
	f.use(values["DEVICE"])
	f.use(values["PHYSDEV"])
}

// ini reads the files of systemd and the keyfiles of NetworkManager: the values of a
// key in a section, with blanks between those that are given apart.
func ini(text string) map[string]map[string]string {
	sections := map[string]map[string]string{}
	section := ""
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
			if sections[section] == nil {
				sections[section] = map[string]string{}
			}
		case ok && section != "":
			key = strings.TrimSpace(key)
			sections[section][key] = strings.TrimSpace(sections[section][key] + " " + strings.TrimSpace(value))
		}
	}
	return sections
}
