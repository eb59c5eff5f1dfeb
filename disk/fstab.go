package disk

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
)

// FstabEntry is a line of /etc/fstab.
type FstabEntry struct {
	Spec    string // UUID=…, LABEL=…, /dev/…
	Dir     string
	Type    string
	Options []string
}

// Has tells whether the entry has an option.
func (e FstabEntry) Has(option string) bool {
	for _, o := range e.Options {
		if o == option {
			return true
		}
	}
	return false
}

// Local tells whether the entry is a filesystem on a disk that the system mounts
// at boot: not swap, not made by the kernel, not from the network, not noauto.
func (e FstabEntry) Local() bool {
	device := strings.HasPrefix(e.Spec, "/dev/")
	for _, kind := range []string{"UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="} {
		device = device || strings.HasPrefix(e.Spec, kind)
	}
	return device && strings.HasPrefix(e.Dir, "/") && e.Type != "swap" && !e.Has("noauto") && !e.Has("_netdev") && !e.Has("bind")
}

// ParseFstab reads an fstab(5); lines that it does not understand are an error
// with their number. Entries come in the order in which they can be mounted:
// parents first.
func ParseFstab(r io.Reader) ([]FstabEntry, error) {
	var entries []FstabEntry
	scanner := bufio.NewScanner(r)
	for line := 1; scanner.Scan(); line++ {
		text := strings.TrimSpace(scanner.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		f := strings.Fields(text)
		if len(f) < 3 {
			return nil, fmt.Errorf("parse fstab: line %d: %d fields, expected at least 3", line, len(f))
		}
		e := FstabEntry{Spec: strings.ReplaceAll(unescape(f[0]), `"`, ""), Dir: unescape(f[1]), Type: f[2]}
		if strings.HasPrefix(e.Dir, "/") {
			e.Dir = path.Clean(e.Dir)
		}
		if len(f) > 3 {
			e.Options = strings.Split(f[3], ",")
		}
		entries = append(entries, e)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("parse fstab: %w", err)
	}
	sort.SliceStable(entries, func(i, j int) bool { return depth(entries[i].Dir) < depth(entries[j].Dir) })
	return entries, nil
}

func depth(dir string) int {
	if dir == "/" {
		return 0
	}
	return strings.Count(dir, "/")
}

// unescape undoes the octal escapes of getmntent(3): space, tab, newline, backslash, #.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#").Replace(s)
}
