// Package config reads reimager.toml, the one contract between the person who
// builds an initrd and the machine that wakes in it, and the job that
// `reimager arm` leaves for it.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"reimager/report"
	"reimager/screen/texts"
)

// Config is a whole reimager.toml with its defaults filled in.
type Config struct {
	Machine  Machine  `toml:"machine"`
	Image    Image    `toml:"image"`
	Trust    Trust    `toml:"trust"`
	Target   Target   `toml:"target"`
	Old      Old      `toml:"old"`
	New      New      `toml:"new"`
	Retain   Retain   `toml:"retain"`
	PowerCut PowerCut `toml:"power_cut"`
	Failure  Failure  `toml:"failure"`
	Arm      Arm      `toml:"arm"`
	Console  Console  `toml:"console"`
	Report   Delivery `toml:"report"`
	// Hooks run and Rewrites are applied in their order.
	Hooks    []Hook    `toml:"hook"`
	Rewrites []Rewrite `toml:"rewrite"`
}

// Machine describes the hardware that the initrd wakes on.
type Machine struct {
	// Compatible are the kinds of machine that this one is; a release has to name one
	// of them. None: not checked.
	Compatible []string `toml:"compatible"`
	// Downgrade is "refuse" or "allow": what a release means whose counter is below
	// that of the release which this system came from.
	Downgrade Choice `toml:"downgrade"`
	// Modules to load first: "classic", "all-storage", a list of names, or a file.
	Modules Modules `toml:"modules"`
	// DeviceTimeout is how long a disk or partition is awaited.
	DeviceTimeout Duration `toml:"device_timeout"`
	// Watchdog is "auto" (one that is there is fed) or "off".
	Watchdog Choice `toml:"watchdog"`
}

// Image says where the compressed image lies. `reimager arm` may name another place.
type Image struct {
	Source Source `toml:"source"`
}

// Trust says whose images are written.
type Trust struct {
	// Signature is "require": the image needs a minisign signature by one of the
	// baked keys; or "if-present": a signature that is there must be right.
	Signature Choice `toml:"signature"`
}

// Target is the disk that is rewritten.
type Target struct {
	Disk Disk `toml:"disk"`
	// Unmapped is what happens to the disk outside the block map, which for an image
	// without one is what lies behind its end: "leave", "discard" or "zero".
	Unmapped Choice `toml:"unmapped"`
}

// Old is the system that is replaced. Without a root it is found by its fstab.
type Old struct {
	Root   Device            `toml:"root"`
	Mounts map[string]Device `toml:"mounts"`
}

// New is the system that the image brings. Without a root it is found by its fstab.
type New struct {
	Root   Device            `toml:"root"`
	Mounts map[string]Device `toml:"mounts"`
	// LogDir takes the log and record.json; "off" writes neither.
	LogDir string `toml:"log_dir"`
}

// Retain decides how the retained files are put back.
type Retain struct {
	// Owners is "name" (as the new system numbers it) or "id".
	Owners Choice `toml:"owners"`
	// Missing is "refuse" or "report": what a listed path that is not there means.
	Missing Choice `toml:"missing"`
	// SELinux is "keep" (the old labels) or "relabel" (and have the new system label
	// all its files anew at its first boot).
	SELinux Choice `toml:"selinux"`
}

// PowerCut says what a machine must survive.
type PowerCut struct {
	// Lifeboat is "prefer" (where there is room for one), "require" (a machine without one
	// is not armed, and a run without one ends before it writes) or "off".
	Lifeboat Choice `toml:"lifeboat"`
	// Berth is the partition of the old system in which the lifeboat lies. Without one
	// the place is chosen.
	Berth Device `toml:"berth"`
}

// Failure says what a failed run does.
type Failure struct {
	// BeforeWrite is "reboot" (into the old system) or "hold".
	BeforeWrite Choice `toml:"before_write"`
	// AfterWrite is "retry" (then hold) or "hold".
	AfterWrite Choice `toml:"after_write"`
}

// Arm says what a machine must show before it may be armed.
type Arm struct {
	// Rehearsal is "require" (this very release was rehearsed on this machine, and
	// passed) or "optional".
	Rehearsal Choice `toml:"rehearsal"`
}

// Console is what the machine shows, and to whom.
type Console struct {
	// Screen is "page" (a calm page for whoever stands before the machine, with the
	// details on another terminal) or "details".
	Screen Choice `toml:"screen"`
	// Language of the page: "en", "de", …
	Language string `toml:"language"`
	// Texts replace texts of the page, by their names.
	Texts map[string]string `toml:"texts"`
	// Details is the virtual terminal that has the log beside the page.
	Details string `toml:"details"`
	// Diagnosis are terminals with a shell. None unless asked for.
	Diagnosis []string `toml:"diagnosis"`
	// Shell is started on each of them; it has to be in the initrd.
	Shell string `toml:"shell"`
	// Password is a hash as crypt(5) writes it, of the password that opens a shell;
	// "": none is asked for.
	Password PasswordHash `toml:"password"`
}

// LogOff as log_dir keeps log and record off the new system.
const LogOff = "off"

// Default returns the configuration that an empty file stands for.
func Default() Config {
	return Config{
		Machine:  Machine{Downgrade: "refuse", Modules: Modules{Set: "classic"}, DeviceTimeout: Duration{30 * time.Second}, Watchdog: "auto"},
		Trust:    Trust{Signature: "require"},
		Target:   Target{Disk: Disk{Kind: HoldsOldRoot}, Unmapped: "leave"},
		New:      New{LogDir: "/var/log/reimager"},
		Retain:   Retain{Owners: "name", Missing: "refuse", SELinux: "keep"},
		PowerCut: PowerCut{Lifeboat: "prefer"},
		Failure:  Failure{BeforeWrite: "reboot", AfterWrite: "retry"},
		Arm:      Arm{Rehearsal: "optional"},
		Console:  Console{Screen: "page", Language: "en", Details: "tty4", Shell: "/bin/sh"},
		Report:   Delivery{Timeout: Duration{30 * time.Second}, Retry: Duration{15 * time.Minute}},
	}
}

// ReadFile reads and checks the configuration in a file.
func ReadFile(name string) (*Config, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(name, text)
}

// Parse reads and checks a configuration. name is used in errors, which give
// line and column of each unknown key and of the first wrong value.
func Parse(name string, text []byte) (*Config, error) {
	c := Default()
	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields().EnableUnmarshalerInterface()
	if err := dec.Decode(&c); err != nil {
		return nil, positioned(name, text, err)
	}
	c.hookDefaults()
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &c, nil
}

// positioned turns an error of the TOML library into one with line and column.
func positioned(name string, text []byte, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var all []error
		for _, e := range strict.Errors {
			row, col := e.Position()
			all = append(all, fmt.Errorf("%s:%d:%d: unknown key %q", name, row, col, strings.Join(e.Key(), ".")))
		}
		return report.Hint(errors.Join(all...), "correct the spelling, or remove the key; docs/configuration.md lists them all")
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		row, col := decode.Position()
		return fmt.Errorf("%s:%d:%d: %s", name, row, col, strings.TrimPrefix(decode.Error(), "toml: "))
	}
	row, col := lineOf(text, err)
	return fmt.Errorf("%s:%d:%d: %w", name, row, col, err)
}

// lineOf finds where an error arises that the library gives no position for (a
// number where our own types read a text): on the last line of the shortest
// beginning of the file that has the same error.
func lineOf(text []byte, err error) (row, col int) {
	lines := bytes.SplitAfter(text, []byte("\n"))
	for n := range lines {
		var c Config
		dec := toml.NewDecoder(bytes.NewReader(bytes.Join(lines[:n+1], nil)))
		if e := dec.EnableUnmarshalerInterface().Decode(&c); e != nil && e.Error() == err.Error() {
			line := lines[n]
			return n + 1, 1 + len(line) - len(bytes.TrimLeft(line, " \t"))
		}
	}
	return len(lines), 1
}

// check refuses values that are well-formed but mean nothing.
func (c *Config) check() error {
	var all []error
	choice := func(key string, got Choice, allowed ...string) {
		for _, a := range allowed {
			if string(got) == a {
				return
			}
		}
		all = append(all, fmt.Errorf("%s = %q: expected one of %q", key, got, allowed))
	}
	choice("machine.downgrade", c.Machine.Downgrade, "refuse", "allow")
	choice("machine.watchdog", c.Machine.Watchdog, "auto", "off")
	choice("arm.rehearsal", c.Arm.Rehearsal, "require", "optional")
	choice("console.screen", c.Console.Screen, "page", "details")
	choice("trust.signature", c.Trust.Signature, "require", "if-present")
	choice("target.unmapped", c.Target.Unmapped, "leave", "discard", "zero")
	choice("retain.owners", c.Retain.Owners, "name", "id")
	choice("retain.missing", c.Retain.Missing, "refuse", "report")
	choice("retain.selinux", c.Retain.SELinux, "keep", "relabel")
	choice("power_cut.lifeboat", c.PowerCut.Lifeboat, "prefer", "require", "off")
	choice("failure.before_write", c.Failure.BeforeWrite, "reboot", "hold")
	choice("failure.after_write", c.Failure.AfterWrite, "retry", "hold")

	if c.PowerCut.Lifeboat == "off" && !c.PowerCut.Berth.IsZero() {
		all = append(all, report.Hint(fmt.Errorf(`power_cut.berth = %q, but power_cut.lifeboat = "off"`, c.PowerCut.Berth), "remove one of them"))
	}
	if c.New.LogDir != LogOff && !cleanAbsolute(c.New.LogDir) {
		all = append(all, fmt.Errorf("new.log_dir = %q: expected an absolute path or %q", c.New.LogDir, LogOff))
	}
	if c.Image.Source.Device.Kind == ByNumber {
		all = append(all, fmt.Errorf("image.source = %q: expected /dev/NAME, UUID=, LABEL=, PARTUUID= or PARTLABEL=", c.Image.Source))
	}
	if c.Old.Root.Kind == ByNumber && c.Target.Disk.Kind == HoldsOldRoot {
		all = append(all, fmt.Errorf("old.root = %q: a partition number of which disk? name the disk in target.disk, or the root by UUID=", c.Old.Root))
	}
	for key, mounts := range map[string]map[string]Device{"old.mounts": c.Old.Mounts, "new.mounts": c.New.Mounts} {
		for dir := range mounts {
			if !cleanAbsolute(dir) || dir == "/" {
				all = append(all, fmt.Errorf("%s: %q: expected an absolute path below /", key, dir))
			}
		}
	}
	all = append(all, c.Console.check()...)
	for _, tty := range c.Console.Diagnosis {
		if strings.ContainsAny(tty, "/ \t") || !strings.HasPrefix(tty, "tty") {
			all = append(all, fmt.Errorf("console.diagnosis: %q: expected a terminal such as \"tty2\"", tty))
		}
	}
	if err := c.Console.Password.Check(); err != nil {
		all = append(all, fmt.Errorf("console.password: %w", err)) // never the hash itself
	}
	if !cleanAbsolute(c.Console.Shell) {
		all = append(all, fmt.Errorf("console.shell = %q: expected an absolute path inside the initrd", c.Console.Shell))
	}
	if c.Machine.DeviceTimeout.Duration <= 0 {
		all = append(all, fmt.Errorf("machine.device_timeout = %s: expected more than nothing", c.Machine.DeviceTimeout))
	}
	return errors.Join(append(append(all, c.checkHooks()...), c.checkReport()...)...)
}

// check refuses a page that could not be shown as it is asked for.
func (c *Console) check() []error {
	var all []error
	if _, err := texts.New(c.Language, c.Texts); err != nil {
		all = append(all, fmt.Errorf("[console]: %w", err))
	}
	if c.Screen != "page" {
		return all
	}
	// A keyboard reaches twelve terminals, and the first has the page.
	if n, err := strconv.Atoi(strings.TrimPrefix(c.Details, "tty")); err != nil || n < 2 || n > 12 || c.Details != "tty"+strconv.Itoa(n) {
		all = append(all, fmt.Errorf("console.details = %q: expected \"tty2\" to \"tty12\"", c.Details))
	}
	for _, tty := range c.Diagnosis {
		switch tty {
		case "tty0", "tty1":
			all = append(all, report.Hint(fmt.Errorf("console.diagnosis: %s has the page", tty), `use another terminal, or screen = "details"`))
		case c.Details:
			all = append(all, report.Hint(fmt.Errorf("console.diagnosis: %s has the log", tty), "use another terminal, or name another in console.details"))
		}
	}
	return all
}

func cleanAbsolute(p string) bool { return path.IsAbs(p) && path.Clean(p) == p }
