package treetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Describe tells by path all that is to be told of a tree, as find, b2sum,
// getfattr, getfacl and lsattr see it. Names of paths are relative to root, and
// paths of one inode name the first of them.
func Describe(t testing.TB, root string) map[string]string {
	t.Helper()
	d := &describer{t: t, root: root, all: map[string]string{}}
	d.stat()
	d.sums()
	d.attributes()
	d.flags()
	return d.all
}

type describer struct {
	t     testing.TB
	root  string
	names []string // sorted
	all   map[string]string
}

// run gives a tool the names, NUL-separated, on its standard input.
func (d *describer) run(names []string, tool string, args ...string) string {
	d.t.Helper()
	if len(names) == 0 {
		return ""
	}
	cmd := exec.Command("xargs", append([]string{"-0", "-r", tool}, args...)...)
	cmd.Dir, cmd.Env = d.root, append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = strings.NewReader("./" + strings.Join(names, "\x00./") + "\x00")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("describe %s: xargs %s: %v\n%s", d.root, tool, err, stderr.String())
	}
	return string(out)
}

func (d *describer) stat() {
	cmd := exec.Command("find", ".", "-printf", `%P\0%i\0%y mode %m owner %U:%G time %T@ links %n\0%s\0%l\0`)
	cmd.Dir = d.root
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("describe %s: find: %v", d.root, err)
	}
	fields := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	inodes := map[string][]string{}
	for ; len(fields) >= 5; fields = fields[5:] {
		name, inode, text, size, target := fields[0], fields[1], fields[2], fields[3], fields[4]
		if name == "" {
			name = "."
		}
		if text[0] == 'f' {
			text += " size " + size
		}
		d.names = append(d.names, name)
		inodes[inode] = append(inodes[inode], name)
		d.all[name] = text + " -> " + target + d.device(name, text[0])
	}
	slices.Sort(d.names)
	for _, names := range inodes {
		slices.Sort(names)
		for _, name := range names {
			d.all[name] += fmt.Sprintf(" same as %q", names[0])
		}
	}
	// What links there are from elsewhere is not this tree's.
}

// device tells what find doesn't.
func (d *describer) device(name string, kind byte) string {
	if kind != 'c' && kind != 'b' {
		return ""
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(d.root, name), &st); err != nil {
		d.t.Fatal(err)
	}
	return fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// only returns the names whose type is one of kinds, as find tells it.
func (d *describer) only(kinds string) (names []string) {
	for _, name := range d.names {
		if strings.IndexByte(kinds, d.all[name][0]) >= 0 {
			names = append(names, name)
		}
	}
	return names
}

// sums adds content and holes.
func (d *describer) sums() {
	files := d.only("f")
	for line := range strings.SplitSeq(d.run(files, "b2sum", "-z"), "\x00") {
		if sum, name, ok := strings.Cut(line, "  ./"); ok {
			d.all[name] += " content " + sum + d.data(name)
		}
	}
}

// data tells in which pages of 4 KiB a file has data.
func (d *describer) data(name string) string {
	fd, err := unix.Open(filepath.Join(d.root, name), unix.O_RDONLY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer unix.Close(fd)
	text := " data"
	for at := int64(0); ; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err != nil {
			return text
		}
		if at, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
			d.t.Fatal(err)
		}
		text += fmt.Sprintf(" %d-%d", data/4096, (at+4095)/4096)
	}
}

// attributes adds extended attributes, and ACLs as their own tool reads them.
func (d *describer) attributes() {
	d.add(d.run(d.names, "getfattr", "-h", "-d", "-m", "-", "-e", "hex"))
	d.add(d.run(d.only("fdpcb"), "getfacl", "-n", "-p", "-s"))
}

// add takes what both tools write: "# file: name", with odd bytes as \ooo, lines,
// and an empty one.
func (d *describer) add(text string) {
	for block := range strings.SplitSeq(text, "\n\n") {
		head, rest, _ := strings.Cut(block, "\n")
		name, ok := strings.CutPrefix(head, "# file: ")
		if !ok {
			continue
		}
		name = strings.TrimPrefix(unquote(name), "./")
		if _, known := d.all[name]; !known {
			d.t.Fatalf("describe %s: no file %q", d.root, name)
		}
		d.all[name] += "\n" + rest
	}
}

// unquote reads \ooo and \\.
func unquote(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+3 < len(text) && text[i+1] >= '0' && text[i+1] <= '3':
			b.WriteByte((text[i+1]-'0')<<6 | (text[i+2]-'0')<<3 | (text[i+3] - '0'))
			i += 3
		case text[i] == '\\' && i+1 < len(text):
			b.WriteByte(text[i+1])
			i++
		default:
			b.WriteByte(text[i])
		}
	}
	return b.String()
}

// flags adds those that a file's owner chooses. lsattr writes names as they are,
// newlines too, so its text is read along the names.
func (d *describer) flags() {
	names := d.only("fd")
	out := d.run(names, "lsattr", "-d")
	for _, name := range names {
		flags, rest, ok := strings.Cut(out, " ./"+name+"\n")
		if !ok || len(flags) > 40 {
			d.t.Fatalf("describe %s: lsattr tells nothing of %q", d.root, name)
		}
		out = rest
		d.all[name] += " flags " + strings.Map(func(r rune) rune {
			if strings.ContainsRune("acdijtACDST", r) {
				return r
			}
			return -1
		}, flags)
	}
}

// ReleaseAtEnd lets a tree be removed when the test ends.
func ReleaseAtEnd(t testing.TB, root string) {
	t.Helper()
	t.Cleanup(func() {
		// Its exit status is 1 with each symbolic link and device, which have no
		// flags. If it did not do its work, removing the tree tells.
		var exit *exec.ExitError
		if err := exec.Command("chattr", "-R", "-f", "-i", "-a", root).Run(); err != nil && !errors.As(err, &exit) {
			t.Error(err)
		}
	})
}
