// Package delivery is what the record of a run needs to get from the machine to the
// people who run the fleet: where it goes, what exactly is sent, what has arrived,
// and the unit that sees to it. init leaves it in the new system, arm in the old
// one; delivery/send does the sending.
package delivery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"reimager/config"
	"reimager/report"
)

// Where things of a delivery lie, beneath the root of the system.
const (
	SettingsPath = "etc/reimager/report.json"
	NotesPath    = "var/lib/reimager/delivery.json"
	UnitName     = "reimager-report.service"
	unitPath     = "etc/systemd/system/" + UnitName
	wantsPath    = "etc/systemd/system/multi-user.target.wants/" + UnitName
	// carriedPath is where the program goes that a new system lacks.
	carriedPath = "usr/local/sbin/reimager"
)

// SettingsFormat is the version of the settings file.
const SettingsFormat = 1

// Settings tell `reimager report` what to do on a machine.
type Settings struct {
	Format int `json:"format"`
	// LogDir is where a run has left record.json in the new system.
	LogDir string          `json:"log_dir"`
	To     config.Delivery `json:"to"`
}

// ReadSettings reads the settings of the system at root. Without a settings file the
// error is os.ErrNotExist.
func ReadSettings(root *os.Root) (*Settings, error) {
	text, err := root.ReadFile(SettingsPath)
	if err != nil {
		return nil, fmt.Errorf("read /%s: %w", SettingsPath, err)
	}
	return ParseSettings(text)
}

// ParseSettings reads and checks settings.
func ParseSettings(text []byte) (*Settings, error) {
	var s Settings
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("read /%s: %w", SettingsPath, err)
	}
	if s.Format != SettingsFormat {
		return nil, fmt.Errorf("read /%s: format %d, expected %d", SettingsPath, s.Format, SettingsFormat)
	}
	all := s.To.Check()
	if !path.IsAbs(s.LogDir) {
		all = append(all, fmt.Errorf("log_dir = %q: expected an absolute path", s.LogDir))
	}
	if err := errors.Join(all...); err != nil {
		return nil, fmt.Errorf("read /%s: %w", SettingsPath, err)
	}
	return &s, nil
}

// Place is one of the places that a record is delivered to.
type Place struct {
	Kind string // "command", "file" or "url"
	Name string // for people, and to tell whether it has the record
}

func (p Place) String() string { return p.Kind + " " + p.Name }

// Places returns the places that are named, the nearest first.
func Places(d config.Delivery) []Place {
	var all []Place
	if d.File != "" {
		all = append(all, Place{"file", d.File})
	}
	if len(d.Command) > 0 {
		all = append(all, Place{"command", strings.Join(d.Command, " ")})
	}
	if d.URL != "" {
		all = append(all, Place{"url", d.URL})
	}
	return all
}

// programs are where a system has its reimager.
func programs() []string {
	return []string{carriedPath, "usr/sbin/reimager", "usr/local/bin/reimager", "usr/bin/reimager"}
}

// Install leaves settings and unit in the system at root. program is a file outside of
// it, or its own: reimager itself, which is copied into a system that has none, and over
// another one at carriedPath: that may be what an earlier release has left, which need not
// know these settings. "" copies nothing. It returns what it left, for the log.
func Install(root *os.Root, s Settings, program string) (left []string, err error) {
	at := ""
	for _, name := range programs() {
		if info, err := root.Stat(name); err == nil && info.Mode().IsRegular() && info.Mode()&0o100 != 0 {
			at = name
			break
		}
	}
	if (at == "" || at == carriedPath) && program != "" {
		content, err := os.ReadFile(program)
		if err != nil {
			return nil, fmt.Errorf("install reimager: %w", err)
		}
		is, err := root.ReadFile(carriedPath)
		if at == "" || err != nil || !bytes.Equal(is, content) {
			if err := place(root, carriedPath, content, 0o755); err != nil {
				return nil, err
			}
			left = append(left, carriedPath)
		}
		at = carriedPath
	}
	s.Format = SettingsFormat
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return left, fmt.Errorf("encode settings: %w", err)
	}
	if err := place(root, SettingsPath, append(text, '\n'), 0o600); err != nil {
		return left, err
	}
	left = append(left, SettingsPath)
	if at == "" {
		return left, report.Hint(errors.New("install reimager: this system has none, so nobody delivers the record"), "bake the initrd with imagebuild initrd, which brings it where [report] names a place")
	}
	if !hasSystemd(root) {
		return left, nil
	}
	if err := place(root, unitPath, []byte(Unit("/"+at, s.To)), 0o644); err != nil {
		return left, err
	}
	if err := enable(root); err != nil {
		return left, err
	}
	return append(left, unitPath), nil
}

func hasSystemd(root *os.Root) bool {
	for _, name := range []string{"usr/lib/systemd/systemd", "lib/systemd/systemd"} {
		if _, err := root.Stat(name); err == nil {
			return true
		}
	}
	return false
}

// enable is `systemctl enable`, which needs a system that runs.
func enable(root *os.Root) error {
	if err := makeFolder(root, path.Dir(wantsPath)); err != nil {
		return fmt.Errorf("enable %s: %w", UnitName, err)
	}
	if err := root.Remove(wantsPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("enable %s: %w", UnitName, err)
	}
	if err := root.Symlink("/"+unitPath, wantsPath); err != nil {
		return fmt.Errorf("enable %s: %w", UnitName, err)
	}
	return label(root, wantsPath)
}

// Remove takes back what Install left, but for the program. The notes stay: a place that
// has a record must not get it again when the settings are back.
func Remove(root *os.Root) error {
	var all []error
	for _, name := range []string{wantsPath, unitPath, SettingsPath} {
		if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			all = append(all, fmt.Errorf("remove /%s: %w", name, err))
		}
	}
	return errors.Join(all...)
}

// place writes a file so that its name never means half of one.
func place(root *os.Root, name string, content []byte, mode os.FileMode) error {
	if err := makeFolder(root, path.Dir(name)); err != nil {
		return fmt.Errorf("make folder of /%s: %w", name, err)
	}
	half := name + ".new"
	// A left-over may have another mode, and an open one elsewhere a reader.
	if err := root.Remove(half); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("write /%s: %w", name, err)
	}
	err := report.WriteFile(root, half, content, mode)
	if err == nil {
		err = label(root, half)
	}
	if err == nil {
		err = root.Rename(half, name)
	}
	if err != nil {
		_ = root.Remove(half) // it may not be there
		return fmt.Errorf("write /%s: %w", name, err)
	}
	return syncDir(root, path.Dir(name))
}

// syncDir makes a rename last: fsync(2) of a file does not sync the directory.
func syncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return fmt.Errorf("sync /%s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync /%s: %w", dir, err)
	}
	return nil
}
