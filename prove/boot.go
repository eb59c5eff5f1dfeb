package prove

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"reimager/disk"
	"reimager/report"
	"reimager/vm"
)

// bootMemory is what the new system gets at least: it was not made for the memory
// that the run needs.
const bootMemory = 1 << 30

// boot starts the disk by its own boot loader, and waits until the new system is up.
func (r *run) boot(ctx context.Context) error {
	firmware, err := r.release.firmware()
	if err != nil {
		return err
	}
	var uefi *vm.UEFI
	if firmware == "uefi" {
		if uefi, err = vm.NewUEFI(filepath.Join(r.work, "uefi-variables")); err != nil {
			return err
		}
	}
	f, err := os.Open(r.disk)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := r.watch(ctx, f)
	if err != nil {
		return err
	}
	memory := max(r.memory, bootMemory)
	if r.MemoryBytes != 0 {
		memory = r.MemoryBytes
	}
	start := time.Now()
	err = r.withVM(ctx, bootLog, func(c *vm.Config) { c.UEFI = uefi }, memory, func(ctx context.Context, guest *vm.VM) error {
		for {
			evidence, err := w.look(ctx, guest, r.Expect)
			switch {
			case err != nil:
				return fmt.Errorf("boot the new system: %w; the console's last lines:\n%s", err, guest.Console.Last(lastLines))
			case evidence != "":
				r.passed("booted", time.Since(start).Seconds(), "by %s: %s", firmware, evidence)
				return nil
			}
			select {
			case <-guest.Exited():
				// Once more: it may have come up and powered off.
				if evidence, err := w.look(ctx, guest, r.Expect); err == nil && evidence != "" {
					r.passed("booted", time.Since(start).Seconds(), "by %s: %s", firmware, evidence)
					return nil
				}
				return fmt.Errorf("boot the new system: the machine went off before it was up; the console's last lines:\n%s", guest.Console.Last(lastLines))
			case <-ctx.Done():
				return report.Hint(fmt.Errorf("boot the new system: %s: %w; the console's last lines:\n%s", w.awaited(r.Expect), context.Cause(ctx), guest.Console.Last(lastLines)),
					"--timeout gives it longer, --memory more room, and --expect names another text on the serial console")
			case <-time.After(250 * time.Millisecond):
			}
		}
	})
	if err != nil {
		return r.failed("booted", err)
	}
	return nil
}

// watcher sees whether a new system comes up.
type watcher struct {
	disk   io.ReaderAt
	root   *disk.Entry // with a filesystem whose superblock tells of mounting; or nil
	kind   string
	before []byte
	next   time.Time // of looking at the screen, which stops the machine for a moment
}

func (r *run) watch(ctx context.Context, f *os.File) (*watcher, error) {
	w := &watcher{disk: f}
	n, err := r.findNew(ctx, f)
	if err != nil {
		return nil, err
	}
	if root, ok := n.mounts["/"]; ok {
		w.kind = n.kinds[root.Number].Driver()
		if w.kind == "ext4" || w.kind == "btrfs" {
			w.root = &root
			w.before, err = w.mountMark()
		}
	}
	return w, err
}

// mountMark is what changes in a superblock when the filesystem is mounted for
// writing: ext4's s_mtime (ext4_setup_super in fs/ext4/super.c; e2fsck counts mounts
// anew, but leaves their time), btrfs' generation (struct btrfs_super_block).
func (w *watcher) mountMark() ([]byte, error) {
	offset, mark := int64(1024+0x2c), make([]byte, 4)
	if w.kind == "btrfs" {
		offset, mark = 64<<10+0x48, make([]byte, 8)
	}
	if _, err := w.disk.ReadAt(mark, w.root.Start+offset); err != nil {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	return mark, nil
}

var (
	loginPrompt = regexp.MustCompile(`(?m)login: ?\r?$`)
	// What no system recovers from by itself, as BIOS, UEFI, GRUB, kernel and initrds say it.
	deadEnds = regexp.MustCompile(`No bootable (?:device|option)[^\r\n]*|Boot failed[^\r\n]*|grub rescue>|Kernel panic - not syncing[^\r\n]*|` +
		`\(initramfs\) |Shell> |Entering emergency mode[^\r\n]*|You are in emergency mode[^\r\n]*`)
)

// look returns what shows that the new system is up; "" if nothing does yet.
func (w *watcher) look(ctx context.Context, guest *vm.VM, expect string) (string, error) {
	console := guest.Console.Bytes()
	if expect != "" {
		if guest.Console.Contains(expect) {
			return fmt.Sprintf("%q on the serial console", expect), nil
		}
	} else if loginPrompt.Match(console) {
		return "a login prompt on the serial console", nil
	} else if w.root != nil {
		mark, err := w.mountMark()
		if err != nil {
			return "", err
		}
		if !bytes.Equal(mark, w.before) {
			return "it has mounted its root for writing", nil
		}
	}
	if said := deadEnds.Find(console); said != nil {
		return "", fmt.Errorf("it stopped with %q", said)
	}
	if ended(guest) || time.Now().Before(w.next) {
		return "", nil
	}
	w.next = time.Now().Add(2 * time.Second)
	return w.lookAtScreen(ctx, guest, expect)
}

func (w *watcher) lookAtScreen(ctx context.Context, guest *vm.VM, expect string) (string, error) {
	screen, err := guest.TextScreen(ctx)
	switch {
	case err != nil && (ctx.Err() != nil || ended(guest)):
		return "", nil // the caller says so
	case err != nil:
		return "", err
	case expect == "" && loginPrompt.MatchString(screen):
		return "a login prompt on the screen", nil
	}
	if said := deadEnds.FindString(screen); said != "" {
		return "", fmt.Errorf("it stopped with %q on the screen", said)
	}
	return "", nil
}

// awaited says what did not come.
func (w *watcher) awaited(expect string) string {
	switch {
	case expect != "":
		return fmt.Sprintf("wait for %q on the serial console", expect)
	case w.root == nil:
		return "wait for a login prompt"
	}
	return "wait until it mounts its root for writing, or for a login prompt"
}
