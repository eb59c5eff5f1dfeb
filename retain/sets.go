package retain

import (
	"fmt"
	"slices"
	"strings"

	"reimager/report"
)

// The ready sets: a line with one of these names stands for many paths.
const (
	SetIdentity = "@identity"
	// SetAccounts keeps no file: accounts are merged, which is package accounts'.
	SetAccounts = "@accounts"
)

// identity is what makes a machine itself to others: who it is, where and when it
// is, and how it is reached. All of it may be missing, as no system has all.
func identity() []string {
	return []string{
		// machine-id(5); D-Bus keeps a copy or a link.
		"/etc/machine-id", "/var/lib/dbus/machine-id",
		"/etc/ssh/ssh_host_*",
		"/etc/hostname",
		// localtime(5) is a link; Debian has the name beside it, as text.
		"/etc/localtime", "/etc/timezone",
		"/etc/locale.conf", "/etc/default/locale", "/etc/vconsole.conf", "/etc/default/keyboard",
		// ifupdown, systemd-networkd, NetworkManager, netplan, RHEL's ifcfg.
		"/etc/network/interfaces", "/etc/network/interfaces.d",
		"/etc/systemd/network",
		"/etc/NetworkManager/system-connections",
		"/etc/netplan",
		"/etc/sysconfig/network", "/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network-scripts/keys-*",
		"/etc/sysconfig/network-scripts/route-*", "/etc/sysconfig/network-scripts/route6-*",
		"/etc/sysconfig/network-scripts/rule-*", "/etc/sysconfig/network-scripts/rule6-*",
	}
}

// addSet takes a line that names a set.
func (l *List) addSet(line string, number int) error {
	switch line {
	case SetAccounts:
		l.Accounts = true
		return nil
	case SetIdentity:
	default:
		return report.Hint(fmt.Errorf("unknown set %q", line), "there are %s and %s; other paths are written one per line", SetIdentity, SetAccounts)
	}
	for _, path := range identity() {
		p, err := parseLine("-" + path)
		if err != nil {
			return err
		}
		p.Line, p.Set = number, line
		l.Patterns = append(l.Patterns, *p)
	}
	return nil
}

// accountFiles are those that SetAccounts merges.
func accountFiles() []string {
	return []string{"etc/passwd", "etc/shadow", "etc/group", "etc/gshadow", "etc/subuid", "etc/subgid"}
}

// checkAccounts refuses to keep a file that is merged as well: one would undo the
// other.
func (l *List) checkAccounts(rel string) error {
	if l.Accounts && slices.Contains(accountFiles(), rel) {
		return report.Hint(fmt.Errorf("keep /%s: %s merges it", rel, SetAccounts), "exclude it: !/%s, or leave out %s", rel, SetAccounts)
	}
	return nil
}

// Empty tells whether the list keeps nothing at all.
func (l List) Empty() bool { return len(l.Patterns) == 0 && !l.Accounts }

func isSet(line string) bool { return strings.HasPrefix(line, "@") }
