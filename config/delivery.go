package config

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"reimager/report"
)

// Delivery is where `reimager report` delivers the record of a run. Nothing is
// delivered unless a place is named.
type Delivery struct {
	Command []string `toml:"command" json:"command,omitempty"` // reads the record on its standard input
	File    string   `toml:"file" json:"file,omitempty"`       // absolute
	URL     string   `toml:"url" json:"url,omitempty"`         // https; the record is posted to it
	// TokenFile holds a bearer token for URL; CAFile the certificates it is checked
	// against, in place of the system's. Both lie on the running system.
	TokenFile string `toml:"token_file" json:"token_file,omitempty"`
	CAFile    string `toml:"ca_file" json:"ca_file,omitempty"`
	// Timeout bounds one attempt, Retry is the longest pause between two.
	Timeout Duration `toml:"timeout" json:"timeout"`
	Retry   Duration `toml:"retry" json:"retry"`
}

// Named tells whether there is a place to deliver to.
func (d Delivery) Named() bool { return len(d.Command) > 0 || d.File != "" || d.URL != "" }

// Check refuses places that nothing can be delivered to.
func (d Delivery) Check() []error {
	var all []error
	bad := func(key, value, expected string) {
		all = append(all, fmt.Errorf("report.%s = %q: expected %s", key, value, expected))
	}
	if len(d.Command) > 0 && (!cleanAbsolute(d.Command[0]) || d.Command[0] == "/") {
		bad("command", strings.Join(d.Command, " "), "an absolute path of a program, and its arguments")
	}
	for _, argument := range d.Command {
		if strings.ContainsRune(argument, 0) {
			bad("command", argument, "no NUL, which no argument can hold")
		}
	}
	for key, name := range map[string]string{"file": d.File, "token_file": d.TokenFile, "ca_file": d.CAFile} {
		if name != "" && (!cleanAbsolute(name) || name == "/" || strings.ContainsRune(name, 0)) {
			bad(key, name, "an absolute path")
		}
	}
	if d.URL != "" {
		all = append(all, checkURL(d.URL)...)
	} else if d.TokenFile != "" || d.CAFile != "" {
		all = append(all, errors.New("report.token_file, report.ca_file: expected report.url beside them"))
	}
	if d.Timeout.Duration <= 0 || d.Retry.Duration <= 0 {
		all = append(all, fmt.Errorf("report.timeout = %s, report.retry = %s: expected more than nothing", d.Timeout, d.Retry))
	}
	return all
}

// checkURL takes https alone: the record names a machine and what it runs, and a
// token goes with it.
func checkURL(text string) []error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "" || u.Fragment != "":
		// The text itself may hold what must not be shown.
		return []error{report.Hint(errors.New("report.url: expected https://HOST/PATH"), "other schemes are refused, since the record and the token would travel in the clear")}
	case u.User != nil:
		return []error{report.Hint(errors.New("report.url: expected no user and password in it"), "put a token into a file and name it in report.token_file")}
	case u.RawQuery != "" || u.ForceQuery:
		// Log, notes and `reimager status` show the URL.
		return []error{report.Hint(errors.New("report.url: expected no query (?…) in it, since the URL is shown in logs"), "put a token into a file and name it in report.token_file; it is sent as Authorization: Bearer")}
	}
	return nil
}

func (c *Config) checkReport() []error {
	all := c.Report.Check()
	if c.Report.Named() && c.New.LogDir == LogOff {
		all = append(all, report.Hint(fmt.Errorf("new.log_dir = %q: expected a folder, since [report] delivers the record that lies there", LogOff), "name one, or no place in [report]"))
	}
	return all
}
