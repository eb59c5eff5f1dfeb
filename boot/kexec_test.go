package boot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"reimager/report"
)

func TestExplainKexec(t *testing.T) {
	for _, c := range []struct {
		name               string
		err                error
		disabled, lockdown string
		want               string
	}{
		{"not built in", unix.ENOSYS, "", "", "CONFIG_KEXEC_FILE"},
		{"sysctl", unix.EPERM, "1", "[none] integrity confidentiality", "kernel.kexec_load_disabled is 1"},
		{"lockdown", unix.EPERM, "0", "none [integrity] confidentiality", "locked down"},
		{"not root", unix.EPERM, "0", "[none] integrity confidentiality", "only root"},
		{"no lockdown at all", unix.EPERM, "", "", "only root"},
		{"unsigned", unix.EKEYREJECTED, "0", "", "signature"},
		{"no signature", unix.ENODATA, "0", "", "signature"},
		{"no kernel", unix.ENOEXEC, "0", "", "no kernel"},
		{"no room", unix.EADDRNOTAVAIL, "0", "", "no room"},
		{"crash kernel is loading", unix.EBUSY, "0", "", "try again"},
		{"something else", unix.EIO, "0", "", ""},
	} {
		err := explainKexec("load vmlinuz for kexec", c.err, c.disabled, c.lockdown)
		if !errors.Is(err, c.err) || !strings.HasPrefix(err.Error(), "load vmlinuz for kexec: ") {
			t.Errorf("%s: explainKexec = %v; want %v in it", c.name, err, c.err)
		}
		_, hint, _ := strings.Cut(report.Explain(err), "hint: ")
		if c.want == "" && hint != "" || !strings.Contains(hint, c.want) {
			t.Errorf("%s: hint %q; want %q", c.name, hint, c.want)
		}
	}
}

// A kernel would cut a longer command line, and the job with it.
func TestLoadKexecRefusesLongCommandLine(t *testing.T) {
	name := filepath.Join(t.TempDir(), "kernel")
	writeFile(t, name, "no kernel")
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	checkError(t, LoadKexec(f, nil, strings.Repeat("x", 2048)), "2048 bytes, the kernel reads 2047")
	if err := LoadKexec(f, nil, "quiet"); err == nil {
		t.Error("LoadKexec of something else than a kernel succeeded")
	}
}
