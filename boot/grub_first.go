package boot

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// FirstEntry is what the first menu entry of a grub.cfg boots.
type FirstEntry struct {
	// FSUUID is the filesystem that the entry searches for; "" is the one that holds
	// grub.cfg.
	FSUUID string
	// Kernel and Initrds are absolute paths in that filesystem.
	Kernel  string
	Initrds []string
	Cmdline string
}

// ParseFirstEntry reads the first menu entry of a grub.cfg that loads a Linux kernel,
// for a machine whose own GRUB cannot be reached. It knows what grub-mkconfig writes:
// linux, initrd, search by UUID, and variables that were set to a plain text before. A
// configuration that it does not understand is an error: of Red Hat's systems the
// entries lie elsewhere (blscfg).
func ParseFirstEntry(config string) (*FirstEntry, error) {
	vars := map[string]string{}
	var entry *FirstEntry
	for line := range strings.Lines(config) {
		words, err := grubWords(line, vars)
		if err != nil && entry != nil && decisive(line) {
			return nil, fmt.Errorf("parse grub.cfg: line %q: %w", strings.TrimSpace(line), err)
		}
		if err != nil || len(words) == 0 {
			continue // functions, conditions, messages
		}
		if words[0] == "menuentry" {
			if entry != nil && entry.Kernel != "" {
				break
			}
			entry = &FirstEntry{}
			continue
		}
		if words[0] == "set" && len(words) == 2 {
			words = words[1:]
		}
		if name, value, ok := strings.Cut(words[0], "="); ok && len(words) == 1 && name != "" {
			vars[name] = value
			continue
		}
		if entry == nil {
			continue
		}
		if words[0] == "}" && entry.Kernel != "" {
			break
		}
		entry.command(words)
	}
	if entry == nil || entry.Kernel == "" {
		return nil, errors.New("parse grub.cfg: no menu entry with a Linux kernel")
	}
	return entry, entry.check()
}

// decisive tells whether a line has a command that command takes.
func decisive(line string) bool {
	line = strings.TrimSpace(line)
	return strings.HasPrefix(line, "linux") || strings.HasPrefix(line, "initrd") || strings.HasPrefix(line, "search")
}

// command takes a command of the entry; those that load nothing are of no interest.
// Variants of linux and initrd end in 16 or efi.
func (e *FirstEntry) command(words []string) {
	switch strings.TrimSuffix(strings.TrimSuffix(words[0], "16"), "efi") {
	case "search":
		// The last one that was run sets $root; grub-mkconfig writes two, of which one
		// has hints: both name the same.
		name, byUUID := "", false
		for _, w := range words[1:] {
			if value, ok := strings.CutPrefix(w, "--fs-uuid="); ok {
				name, byUUID = value, true
			}
			byUUID = byUUID || w == "--fs-uuid" || w == "-u"
			if !strings.HasPrefix(w, "-") {
				name = w
			}
		}
		if byUUID {
			e.FSUUID = name
		}
	case "linux":
		if len(words) > 1 {
			e.Kernel, e.Cmdline = words[1], strings.Join(words[2:], " ")
		}
	case "initrd":
		e.Initrds = words[1:]
	}
}

func (e *FirstEntry) check() error {
	for _, file := range append([]string{e.Kernel}, e.Initrds...) {
		if !path.IsAbs(file) || path.Clean(file) != file || hasControl(file) {
			return fmt.Errorf("parse grub.cfg: %q is no plain path on one filesystem", file)
		}
	}
	if hasControl(e.Cmdline) {
		return fmt.Errorf("parse grub.cfg: command line %q has control characters", e.Cmdline)
	}
	return nil
}

// grubWords splits a line as GRUB's script does: grub-core/script/yylex.l. A variable
// that was never set is nothing.
func grubWords(line string, vars map[string]string) ([]string, error) {
	var words []string
	var word strings.Builder
	in, quote := false, byte(0)
	end := func() {
		if in {
			words = append(words, word.String())
		}
		word.Reset()
		in = false
	}
	line = strings.TrimRight(line, "\n")
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == '\'':
			if c == '\'' {
				quote = 0
			} else {
				word.WriteByte(c)
			}
		case c == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			in = true
		case c == '$':
			name, n := grubVariable(line[i+1:])
			if n == 0 {
				word.WriteByte(c)
				in = true
				break
			}
			i += n
			word.WriteString(vars[name])
			in = in || vars[name] != "" || quote != 0
		case quote == '"':
			if c == '"' {
				quote = 0
			} else {
				word.WriteByte(c)
			}
		case c == '\'' || c == '"':
			quote, in = c, true
		case c == ' ' || c == '\t':
			end()
		case c == '#' && !in:
			end()
			return words, nil
		case strings.IndexByte(";|&<>", c) >= 0:
			return nil, fmt.Errorf("%q is not understood", c)
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quotation has no end")
	}
	end()
	return words, nil
}

// grubVariable returns the name behind a dollar sign and how many bytes it takes.
func grubVariable(s string) (name string, n int) {
	if strings.HasPrefix(s, "{") {
		if end := strings.IndexByte(s, '}'); end > 1 {
			return s[1:end], end + 1
		}
		return "", 0
	}
	for n < len(s) && (s[n] == '_' || s[n] >= '0' && s[n] <= '9' || s[n] >= 'a' && s[n] <= 'z' || s[n] >= 'A' && s[n] <= 'Z') {
		n++
	}
	return s[:n], n
}
