package config

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		`command = ["/usr/bin/logger", "-t", "reimager"]`: "",
		`file = "/var/spool/reimager.json"`:               "",
		`url = "https://fleet.example/reports"` + "\n" + `token_file = "/etc/fleet/token"` + "\nca_file = \"/etc/fleet/ca.pem\"\ntimeout = \"5s\"\nretry = \"1h\"": "",
		`command = []`:                                 "",
		`command = [""]`:                               "report.command",
		`command = ["logger"]`:                         "an absolute path of a program",
		`command = ["/bin/a", "b\u0000c"]`:             "NUL",
		`file = "report.json"`:                         "report.file",
		`file = "/var/../report.json"`:                 "report.file",
		`file = "/"`:                                   "report.file",
		`url = "http://fleet.example/"`:                "expected https://",
		`url = "http://localhost/"`:                    "expected https://",
		`url = "https://"`:                             "expected https://",
		`url = "https:fleet.example"`:                  "expected https://",
		`url = "https://a.example/#x"`:                 "expected https://",
		`url = "https://user:sesame@fleet.example/"`:   "no user and password",
		`url = "https://fleet.example/?key=sesame"`:    "no query",
		`url = "https://fleet.example/?"`:              "no query",
		`token_file = "/etc/token"`:                    "expected report.url",
		`ca_file = "/etc/ca"`:                          "expected report.url",
		"url = \"https://h/\"\ntoken_file = \"token\"": "report.token_file",
		`timeout = "0s"`:                               "more than nothing",
		`retry = "-1s"`:                                "more than nothing",
		"file = \"/f\"\n[new]\nlog_dir = \"off\"":      "new.log_dir",
		`password = "x"`:                               "unknown key",
	} {
		_, err := Parse("reimager.toml", []byte("[report]\n"+text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: the error shows the password: %v", text, err)
		}
	}
}
