// Command demo lets somebody watch a machine's operating system being replaced:
// a kiosk of a few dozen MB, or with the argument "debian" real Debian systems.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"reimager/disk"
	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/report"
	"reimager/vm"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	// Longer than a cold build of the Debian systems on two slow cores.
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	var err error
	switch system := strings.Join(args, " "); system {
	case "", "kiosk":
		err = kiosk(ctx, stdout)
	case "debian":
		err = debian(ctx, stdout)
	default:
		fmt.Fprintf(stderr, "demo: system %q, expected kiosk or debian\n", system)
		return 2
	}
	if err != nil {
		fmt.Fprintf(stderr, "\ndemo: %s\n", report.Explain(err))
		return 1
	}
	return 0
}

// show is a replacement that is watched: the machine, and what its console says
// at each step.
type show struct {
	dir, disk string
	drive     vm.Drive
	memoryMiB int
	steps     []step
	partition int    // where the log lies
	logDir    string // there
}

type step struct{ console, says string }

func kiosk(ctx context.Context, out io.Writer) error {
	dir, err := folder()
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "Building an old kiosk, the image of a new one, and the reimager's initrd …")
	k, err := scenario.Build(ctx, dir, scenario.Spec{New: func(n *lab.KioskSpec) { n.BootScript = scenario.ShowScript }})
	if err != nil {
		return err
	}
	fmt.Fprint(out, k.Log)
	s := show{
		dir: dir, disk: k.Disk, drive: k.Drive(), memoryMiB: 512, partition: lab.KioskLog, logDir: "/log",
		steps: append([]step{
			{k.Old.Banner(), "the old kiosk has booted through its own GRUB, and is armed"},
			{"armed; rebooting now", "it reboots; GRUB starts the reimager, once"},
		}, append(stages(), step{k.New.Banner(), "the new kiosk has booted through its own GRUB; what it kept:"}, step{k.New.Done(), ""})...),
	}
	return s.watch(ctx, out)
}

// stages are the steps of every run.
func stages() []step {
	return []step{
		{"stage gather", "stage 1: image and retained files into RAM; nothing is changed yet"},
		{"stage write", "stage 2: the point of no return; the image goes onto the only disk"},
		{"cast off", ""},
		{"stage restore", "stage 3: the machine gets its own files back"},
		{"stage land", "the disk gets its boot sector, and the machine boots from it"},
	}
}

func folder() (string, error) {
	root, err := scenario.Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build/demo")
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// watch runs the machine from its old system to its new one.
func (s show) watch(ctx context.Context, out io.Writer) (err error) {
	screen := &console{out: out}
	log, err := os.Create(filepath.Join(s.dir, "console.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	start := time.Now()
	guest, err := lab.Start(ctx, vm.Config{Drives: []vm.Drive{s.drive}, MemoryMiB: s.memoryMiB, Console: io.MultiWriter(screen, log)})
	if err != nil {
		return err
	}
	defer guest.Kill()
	for _, step := range s.steps {
		if err := guest.WaitFor(ctx, step.console); err != nil {
			return err
		}
		if step.says != "" {
			screen.say(step.says)
		}
		if step.console == "cast off" {
			if err := s.picture(ctx, guest); err != nil {
				return err
			}
		}
	}
	screen.flush()
	guest.Kill() // everything that counts has been synced by the new system
	return s.summary(ctx, out, time.Since(start))
}

// picture keeps what somebody sees who stands before the machine while its disk is
// written.
func (s show) picture(ctx context.Context, guest *vm.VM) error {
	for range 40 {
		text, err := guest.TextScreen(ctx)
		if err != nil {
			return err
		}
		if strings.Contains(text, "do not switch off") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return guest.Screendump(ctx, filepath.Join(s.dir, "screen.png"))
}

// summary tells what was kept, how long it took and where to look.
func (s show) summary(ctx context.Context, out io.Writer, took time.Duration) error {
	text, err := lab.ReadFile(ctx, s.disk, s.partition, s.logDir+"/record.json")
	if err != nil {
		return err
	}
	var r struct {
		report.Record
		Retained struct {
			Entries []struct {
				Path, Mode string
				Owner      string `json:"old_owner"`
				UID        int    `json:"new_uid"`
				Bytes      int64
			}
		} `json:"retained"`
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nThe machine has its new system and is still itself.\n\nkept, as the new system numbers their owners:\n")
	for _, e := range r.Retained.Entries {
		fmt.Fprintf(out, "  %s  %-14s → %-5d %8s  %s\n", e.Mode, e.Owner, e.UID, disk.Size(e.Bytes), e.Path)
	}
	fmt.Fprintln(out, "\nstages:")
	for _, d := range r.Stages {
		rate := ""
		if d.Bytes > 0 && d.Seconds > 0 {
			rate = fmt.Sprintf("%10s, %s/s", disk.Size(d.Bytes), disk.Size(int64(float64(d.Bytes)/d.Seconds)))
		}
		fmt.Fprintf(out, "  %-10s %6.1f s %s\n", d.Stage, d.Seconds, rate)
	}
	fmt.Fprintf(out, "  in all, from power on to the new system's work done: %.0f s, in an emulated machine\n", took.Seconds())
	for _, w := range r.Warnings {
		fmt.Fprintf(out, "warning: %s\n", w)
	}
	fmt.Fprintf(out, "\ndisk     %s\nconsole  %s\nscreen   %s\nlog      partition %d of the disk, %s\n", relative(s.disk), relative(filepath.Join(s.dir, "console.log")),
		relative(filepath.Join(s.dir, "screen.png")), s.partition, s.logDir)
	return nil
}

func relative(path string) string {
	if dir, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(dir, path); err == nil {
			return rel
		}
	}
	return path
}

// console shows a machine's console line by line, set off from our own words.
type console struct {
	mu   sync.Mutex
	out  io.Writer
	line []byte
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line = append(c.line, p...)
	for {
		i := bytes.IndexByte(c.line, '\n')
		if i < 0 {
			return len(p), nil
		}
		if text := strings.TrimRight(string(c.line[:i]), "\r"); text != "" {
			fmt.Fprintf(c.out, "  │ %s\n", text)
		}
		c.line = c.line[i+1:]
	}
}

func (c *console) say(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, "\n── %s\n", text)
}

func (c *console) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.line) > 0 {
		fmt.Fprintf(c.out, "  │ %s\n", c.line)
	}
}
