package stages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/disk"
	"reimager/hook"
	"reimager/network"
	"reimager/report"
	"reimager/retain"
)

// guarded runs what may call the new system's own programs, and makes sure that these
// have not written to the boot sectors.
func (r *Run) guarded(ctx context.Context, w *Written, run func() error) error {
	if len(r.Config.Hooks) == 0 {
		return run()
	}
	before, err := r.bootSectors(ctx, w, func(s io.ReaderAt) (*hook.Sectors, error) {
		return hook.Snapshot(s, w.Disk.SectorSize, &w.Table, hook.GuardedBytes)
	})
	if err != nil {
		return err
	}
	if err := run(); err != nil {
		return err
	}
	_, err = r.bootSectors(ctx, w, func(s io.ReaderAt) (*hook.Sectors, error) { return before, before.Compare(s) })
	var changed *hook.ChangedError
	if errors.As(err, &changed) {
		err = report.Hint(err, "a hook, or something that it started, writes boot code; the image has to bring its own")
	}
	return err
}

// bootSectors opens the disk, on which nothing is mounted, for a look at its beginning.
func (r *Run) bootSectors(ctx context.Context, w *Written, look func(io.ReaderAt) (*hook.Sectors, error)) (*hook.Sectors, error) {
	dev, err := r.openDisk(ctx, w.Disk.Path)
	if err != nil {
		return nil, err
	}
	s, err := look(hook.Direct(dev))
	return s, errors.Join(err, dev.Close())
}

// before runs the hooks that come before the retained files.
func (r *Run) before(ctx context.Context, root system, w *Written) error {
	hooks := r.Config.HooksAt(config.BeforeRestore)
	if len(hooks) == 0 {
		return nil
	}
	return r.onNewSystem(ctx, root, 0, func() error { return r.runHooks(ctx, hooks, w) })
}

// adapt changes what the retained files do not bring: rewrites, hooks, labels. It comes
// when they were compared, so that what a hook changes is told apart from what went wrong.
func (r *Run) adapt(ctx context.Context, root system, w *Written, put *retain.Report) error {
	hooks := r.Config.HooksAt(config.AfterRestore)
	relabel := r.Config.Retain.SELinux == "relabel"
	if len(hooks)+len(r.Config.Rewrites) == 0 && !relabel && put == nil {
		return nil
	}
	err := r.onNewSystem(ctx, root, r.adaptFlags(hooks, relabel), func() error {
		if err := r.rewrite(root, w); err != nil {
			return err
		}
		if err := r.runHooks(ctx, hooks, w); err != nil {
			return err
		}
		if relabel {
			if err := touchAutorelabel(); err != nil {
				r.warn("%v", err)
			}
		}
		r.checkNetwork(put)
		return nil
	})
	if err != nil || put == nil || len(hooks)+len(r.Config.Rewrites) == 0 {
		return err
	}
	if err := r.changedByHooks(ctx, root, put); err != nil {
		r.warn("look what hooks have changed: %v", err)
	}
	return nil
}

// adaptFlags mounts read-only where only a look is taken.
func (r *Run) adaptFlags(hooks []config.Hook, relabel bool) uintptr {
	if len(hooks)+len(r.Config.Rewrites) == 0 && !relabel {
		return unix.MS_RDONLY
	}
	return 0
}

// changedByHooks names retained files that rewrites and hooks have changed: that is
// what they may be for, and has to be known.
func (r *Run) changedByHooks(ctx context.Context, root system, put *retain.Report) error {
	return r.onNewSystem(ctx, root, unix.MS_RDONLY, func() error {
		found, err := retain.Recheck(ctx, newDir, put)
		if err != nil {
			return err
		}
		var texts []string
		for _, d := range found {
			texts = append(texts, fmt.Sprintf("%s: a hook or rewrite has changed its %s, from %s to %s", d.Path, d.What, d.Want, d.Got))
		}
		r.warnAll(texts)
		return nil
	})
}

func (r *Run) rewrite(root system, w *Written) error {
	if len(r.Config.Rewrites) == 0 {
		return nil
	}
	vars, err := hook.ReadVars(newDir, root.root.fs.UUID, w.OldRoot)
	if err != nil {
		r.warn("%v", err)
	}
	results, err := hook.Rewrite(newDir, r.Config.Rewrites, vars)
	if err != nil {
		return err
	}
	for _, done := range results {
		note := report.Rewrite{File: done.Rule.File, Lines: done.Lines}
		switch {
		case done.Fatal():
			return done.Err
		case done.Err != nil:
			note.Error = done.Err.Error()
			r.warn("%v", done.Err)
		default:
			r.Report.Printf("rewrite  %s: %d lines", done.Rule.File, done.Lines)
		}
		r.Record.Rewrites = append(r.Record.Rewrites, note)
	}
	return nil
}

func (r *Run) runHooks(ctx context.Context, hooks []config.Hook, w *Written) error {
	if len(hooks) == 0 {
		return nil
	}
	target, err := r.Disks.Disk(w.Disk.Name)
	if err != nil {
		return err
	}
	r.hideBerth(target)
	vars, err := hook.ReadVars(newDir, "", "")
	if err != nil {
		r.warn("%v", err)
	}
	defer r.moving()()
	results, err := hook.Run(ctx, newDir, hooks, hook.Options{
		Disk: target, Held: w.Boot.Land, Hostname: vars["hostname"],
		Env:    map[string]string{"REIMAGER_RUN_ID": r.Record.RunID},
		Output: func(line string) { r.Report.Detail("hook     %s", line) },
	})
	for _, done := range results {
		note := report.HookRun{Run: done.Hook.Run, When: string(done.Hook.When), Seconds: done.Took.Seconds()}
		if done.Err != nil {
			note.Error = done.Err.Error()
			r.warn("%v", done.Err)
		} else {
			r.Report.Printf("hook     %s, %.1f s", done.Hook, done.Took.Seconds())
		}
		r.Record.Hooks = append(r.Record.Hooks, note)
	}
	return err
}

// moving says that the run gets on, until it is ended: a hook may be silent for as long as
// its own timeout lets it.
func (r *Run) moving() (end func()) {
	ended := make(chan struct{})
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				r.Report.Moves()
			}
		}
	}()
	return func() { close(ended) }
}

// hideBerth keeps hooks from the partition that the lifeboat lies in, which is still
// needed: they may write to any other one.
func (r *Run) hideBerth(d *disk.Disk) {
	if r.boat == nil {
		return
	}
	b := r.boat.Header().Berth
	d.Partitions = slices.DeleteFunc(d.Partitions, func(p disk.Partition) bool {
		hidden := p.Start < b.Off+b.Bytes && b.Off < p.Start+p.Bytes
		if hidden {
			r.Report.Detail("hooks see no %s: the lifeboat lies in it", p.Path)
		}
		return hidden
	})
}

// touchAutorelabel has the new system label all files at its first boot: the file is
// what the init scripts of Red Hat's systems and systemd's selinux-autorelabel look for.
func touchAutorelabel() error {
	f, err := os.OpenFile(path.Join(newDir, ".autorelabel"), os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return fmt.Errorf("have the new system relabelled: %w", err)
	}
	return f.Close()
}

// checkNetwork warns of interfaces that the new system will call otherwise.
func (r *Run) checkNetwork(put *retain.Report) {
	if put == nil {
		return
	}
	kept := map[string]bool{}
	for _, e := range put.Entries {
		kept[string(e.Path)] = true
	}
	// It reads files of any making, and only advises: it must not cost an attempt.
	defer func() {
		if p := recover(); p != nil {
			r.warn("look at the network configuration: %v", p)
		}
	}()
	root, err := os.OpenRoot(newDir)
	if err != nil {
		r.warn("look at the network configuration: %v", err)
		return
	}
	defer root.Close()
	warnings, err := network.Check(root, func(path string) bool { return kept[path] }, "/sys")
	if err != nil {
		r.warn("look at the network configuration: %v", err)
	}
	for _, w := range warnings {
		r.warn("%s", w.Why)
	}
}
