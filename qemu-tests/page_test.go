package qemutests

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

var pictures = flag.Bool("pictures", false, "write the pictures in docs anew")

// pageRate slows a disk down to what gives time to look at the page, in bytes per second.
const pageRate = 4 << 20

// Whoever stands before the machine sees a page: what happens, how far it is, how long
// it takes yet, and whether it may be switched off. It never goes backwards, repairs
// itself when the kernel writes over it, and the log is on another terminal.
func TestPage(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := armed(t)
	rebake(t, k, scenario.ClassicConfig)
	guest := slow(t, k)
	wait(ctx, t, guest, "== stage gather")
	waitScreen(ctx, t, guest, "Nothing has been changed yet.")
	waitScreen(ctx, t, guest, "If the power fails now, the old system simply starts again.")
	wait(ctx, t, guest, "cast off /dev/sda")
	waitScreen(ctx, t, guest, "Please do not switch off.")
	seen := &watched{}
	for seen.fraction < 55 {
		seen.look(ctx, t, guest)
	}
	keepPicture(ctx, t, guest, "page.png")
	for _, want := range []string{"This machine is getting a new system", "Writing the new system", "▄", " left", "reimager "} {
		if !strings.Contains(seen.screen, want) {
			t.Errorf("the page lacks %q:\n%s", want, seen.screen)
		}
	}
	for _, other := range []string{"cast off", "MiB/s", "old system"} {
		if strings.Contains(seen.screen, other) {
			t.Errorf("the page has %q:\n%s", other, seen.screen)
		}
	}

	press(ctx, t, guest, "alt-f4")
	waitScreen(ctx, t, guest, "cast off /dev/sda: from here on the old system is gone")
	press(ctx, t, guest, "alt-f1")
	waitScreen(ctx, t, guest, "Please do not switch off.")

	// Keys neither show on the page nor stop it; those that would reset the machine, or
	// kill whoever has the terminal open, do nothing (drivers/tty/sysrq.c).
	for _, key := range []string{"x", "ret", "ctrl-s", "scroll_lock", "ctrl-c", "ctrl-alt-delete", "alt-sysrq-k", "alt-sysrq-b"} {
		press(ctx, t, guest, key)
	}

	// The rest at full speed. "limits" is a property of QEMU's throttle groups.
	_, err := guest.QMP(ctx, "qom-set", map[string]any{"path": "/objects/throttle0", "property": "limits", "value": map[string]any{"bps-total": 0}})
	must(t, err)
	for !seen.ended {
		seen.look(ctx, t, guest)
	}
	waitExit(ctx, t, guest)
	for _, step := range []string{"Writing the new system", "Checking what was written"} {
		if !strings.Contains(seen.all, step) {
			t.Errorf("no page said %q", step)
		}
	}
	if key := tree(t, k.Disk, lab.KioskRoot)["etc/kiosk/keys/client.key"]; key.UID != 880 || key.Mode != 0o600 {
		t.Errorf("client.key: owner %d, %v; want 880, -rw-------", key.UID, key.Mode)
	}
}

// The page speaks other languages with their own letters, and says whom to call.
func TestPageInGerman(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := armed(t)
	rebake(t, k, scenario.ClassicConfig+"[console]\nlanguage = \"de\"\ndetails = \"tty7\"\ntexts = { contact = \"Bitte rufen Sie 0800 123 an.\" }\n[failure]\nafter_write = \"hold\"\n")
	table, err := lab.ReadTable(ctx, k.NewRaw)
	must(t, err)
	root, err := table.Entry(lab.KioskRoot)
	must(t, err)
	blockdev, err := vm.FaultyBlockdev(0, k.Disk, vm.Fault{Sector: root.Offset/512 + 16, IOType: "write"})
	must(t, err)
	guest := start(t, vm.Config{Drives: []vm.Drive{{Blockdev: blockdev, Serial: scenario.Serial}}, NoReboot: true})
	waitScreen(ctx, t, guest, "Dieses Gerät bekommt ein neues System")
	waitScreen(ctx, t, guest, "Einzelheiten: Alt+F7")
	wait(ctx, t, guest, "THE MACHINE HOLDS")
	waitScreen(ctx, t, guest, "Dieses Gerät braucht Hilfe")
	for _, text := range []string{"Bitte nicht ausschalten.", "Bitte rufen Sie 0800 123 an.", "input/output error", "Einzelheiten: Alt+F7"} {
		waitScreen(ctx, t, guest, text)
	}
}

// slow starts a machine whose disk is slow.
func slow(t *testing.T, k *scenario.Kiosk) *vm.VM {
	t.Helper()
	blockdev, extra, err := vm.ThrottledBlockdev(0, k.Disk, pageRate)
	must(t, err)
	return start(t, vm.Config{Drives: []vm.Drive{{Blockdev: blockdev, Serial: scenario.Serial}}, Extra: extra, NoReboot: true})
}

// watched is what was seen of a page so far.
type watched struct {
	screen   string // the last one
	all      string
	fraction int
	minutes  int // 0: none was shown yet
	ended    bool
}

var (
	percentage = regexp.MustCompile(`  (\d+)%\n *▄`)
	remaining  = regexp.MustCompile(`About (\d+) minutes left|Less than a minute left`)
)

// look looks at the page once, and complains about what goes backwards or jumps.
func (w *watched) look(ctx context.Context, t *testing.T, guest *vm.VM) {
	t.Helper()
	time.Sleep(400 * time.Millisecond)
	screen, err := guest.TextScreen(ctx)
	if err != nil {
		if ctx.Err() != nil {
			t.Fatalf("%v; the last page:\n%s", errors.Join(err, context.Cause(ctx)), w.screen)
		}
		w.ended = true // the VM is gone
		return
	}
	found := percentage.FindStringSubmatch(screen)
	if found == nil {
		return // another terminal, or between two pages
	}
	w.screen, w.all = screen, w.all+screen
	fraction, err := strconv.Atoi(found[1])
	must(t, err)
	if fraction < w.fraction {
		t.Errorf("the bar went from %d%% back to %d%%", w.fraction, fraction)
	}
	w.fraction = fraction
	if left := remaining.FindStringSubmatch(screen); left != nil {
		minutes := 1
		if left[1] != "" {
			minutes, err = strconv.Atoi(left[1])
			must(t, err)
		}
		if w.minutes > 0 && minutes > w.minutes+2 {
			t.Errorf("the remaining time went from %d up to %d minutes", w.minutes, minutes)
		}
		w.minutes = minutes
	}
	w.ended = fraction == 100
}

func press(ctx context.Context, t *testing.T, guest *vm.VM, keys string) {
	t.Helper()
	_, err := guest.HMP(ctx, "sendkey "+keys)
	must(t, err)
}

// keepPicture makes a picture of the screen, for the docs if that was asked for.
func keepPicture(ctx context.Context, t *testing.T, guest *vm.VM, name string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if *pictures {
		root, err := scenario.Root()
		must(t, err)
		path = filepath.Join(root, "docs", name)
	}
	must(t, guest.Screendump(ctx, path))
	info, err := os.Stat(path)
	must(t, err)
	if info.Size() < 1000 {
		t.Errorf("%s has %d bytes", name, info.Size())
	}
}
