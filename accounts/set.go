package accounts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"reimager/report"
)

const (
	// maxFile bounds each file, in bytes: some 50,000 accounts. UID_MAX is 60,000.
	maxFile = 4 << 20
	// maxEncoded bounds an encoded Set, in bytes: base64 of all files, and the rest.
	maxEncoded  = (int(kinds)+1)*maxFile/3*4 + 64<<10
	loginDefs   = "etc/login.defs"
	vendorDefs  = "usr/etc/login.defs" // openSUSE's; etc has the administrator's, if any
	setFormat   = "reimager-accounts 1"
	redactedFmt = "accounts.Set (secret)"
)

// Set is the account files of one system. It holds password hashes: it prints
// as a word, and only Encode gives its content away.
type Set struct {
	files   [kinds]content
	defs    string // login.defs
	hasDefs bool
}

type content struct {
	present bool
	text    string
}

// Format keeps the hashes out of logs.
func (s Set) Format(f fmt.State, _ rune) { io.WriteString(f, redactedFmt) }

// Read reads the account files, and login.defs, beneath a root. passwd and group
// must be there. Links are followed beneath the root.
func Read(root *os.Root) (*Set, error) {
	s := new(Set)
	for k := range kinds {
		text, present, err := readFile(root, k.path())
		if err != nil {
			return nil, err
		}
		if !present && (k == passwd || k == group) {
			return nil, report.Hint(fmt.Errorf("read %s/%s: %w", root.Name(), k.path(), fs.ErrNotExist), "is this the root of a system, with everything mounted?")
		}
		s.files[k] = content{present, text}
	}
	for _, path := range []string{loginDefs, vendorDefs} {
		text, present, err := readFile(root, path)
		if err != nil {
			return nil, err
		}
		if present {
			s.defs, s.hasDefs = text, true
			break
		}
	}
	return s, nil
}

func readFile(root *os.Root, path string) (text string, present bool, err error) {
	f, err := openFile(root, path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read %s/%s: %w", root.Name(), path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("more than the %d bytes that are read", maxFile)
	}
	if err != nil {
		return "", false, fmt.Errorf("read %s/%s: %w", root.Name(), path, err)
	}
	return string(b), true, nil
}

// openFile opens a regular file that links beneath the root lead to.
func openFile(root *os.Root, path string) (*os.File, error) {
	path, err := resolve(root, path)
	if err != nil {
		return nil, err
	}
	// O_NONBLOCK: a FIFO in its place must not block.
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, cause(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, cause(err)
	}
	return f, nil
}

// cause drops verb and path from an error of package os: the caller names them.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}

// encoded is the JSON of a Set. Files that are missing have no key; []byte is
// base64, as the files need not be UTF-8.
type encoded struct {
	Format    string            `json:"format"`
	Files     map[string][]byte `json:"files"`
	LoginDefs *[]byte           `json:"login_defs,omitempty"`
}

// Encode returns the Set as JSON. It is secret: it belongs in RAM, or where the
// retained files are.
func (s *Set) Encode() ([]byte, error) {
	e := encoded{Format: setFormat, Files: map[string][]byte{}}
	for k := range kinds {
		if s.files[k].present {
			e.Files[k.path()] = []byte(s.files[k].text)
		}
	}
	if s.hasDefs {
		defs := []byte(s.defs)
		e.LoginDefs = &defs
	}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode accounts: %w", err)
	}
	return b, nil
}

// Decode reads what Encode returned.
func Decode(b []byte) (*Set, error) {
	if len(b) > maxEncoded {
		return nil, fmt.Errorf("decode accounts: %d bytes are more than the %d that a set can have", len(b), maxEncoded)
	}
	var e encoded
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(&e)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("something behind the end")
		}
	}
	if err != nil {
		// The error of package json may quote what it read.
		return nil, fmt.Errorf("decode accounts: not what Encode wrote, near byte %d of %d", d.InputOffset(), len(b))
	}
	if e.Format != setFormat {
		return nil, fmt.Errorf("decode accounts: another format than %q", setFormat)
	}
	s := new(Set)
	known := 0
	for k := range kinds {
		text, present := e.Files[k.path()]
		if !present && (k == passwd || k == group) {
			return nil, fmt.Errorf("decode accounts: no %s", k.path())
		}
		if len(text) > maxFile {
			return nil, fmt.Errorf("decode accounts: %s has more than %d bytes", k.path(), maxFile)
		}
		known += one(present)
		s.files[k] = content{present, string(text)}
	}
	if known != len(e.Files) {
		return nil, fmt.Errorf("decode accounts: %d files that are not of accounts", len(e.Files)-known)
	}
	if e.LoginDefs != nil {
		if len(*e.LoginDefs) > maxFile {
			return nil, fmt.Errorf("decode accounts: login.defs has more than %d bytes", maxFile)
		}
		s.defs, s.hasDefs = string(*e.LoginDefs), true
	}
	return s, nil
}
