package stages

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"reimager/disk"
	"reimager/image"
	"reimager/lifeboat"
	"reimager/report"
	"reimager/retain"
	"reimager/wake"
)

// Gathered is everything that the machine needs from its old system, in RAM and
// proven: from here on the disk may be rewritten.
type Gathered struct {
	gathered
	// Until it is written, of the release:
	filesystems map[int]disk.Filesystem // by partition number
	starters    map[string]image.Digest // kernel and initrd, by their section of a lifeboat; nil: not known
}

// gathered is what a worker that takes over after a crash has to know.
type gathered struct {
	Disk         disk.Disk    `json:"disk"`
	Format       image.Format `json:"format"`
	Decoded      bool         `json:"decoded"` // it is in RAM decoded, too
	Map          image.Map    `json:"map"`
	Boot         bootable     `json:"boot"`
	Table        disk.Table   `json:"table"` // of the image
	ArchiveBytes int64        `json:"archive_bytes"`
	Files        int          `json:"files"`      // retained
	FileBytes    int64        `json:"file_bytes"` // of their content
	Manifest     string       `json:"manifest"`   // digest of the release's; "": a bare image
	OldRoot      string       `json:"old_root"`   // UUID of its filesystem
	// Berth is where the lifeboat lies; nil: there is none.
	Berth *lifeboat.Berth `json:"berth,omitempty"`
	// StateAt is where on the disk the lifeboat's section Saved lies, for who clears it away
	// before there is a header that tells; empty before that is about to be written.
	StateAt image.Extent `json:"state_at,omitzero"`
	// Afloat says that the image is in the berth only, as it does not fit into RAM.
	Afloat bool `json:"afloat,omitempty"`
	// Before is the log of the start that boarded.
	Before string         `json:"before,omitempty"`
	Record *report.Record `json:"record"` // as it was at the end of gather
}

// Where image and archive lie in RAM.
const (
	ramImage   = ramDir + "/image"
	ramDecoded = ramDir + "/decoded"
	ramArchive = ramDir + "/retained.tar"
	ramState   = ramDir + "/gathered.json"
)

// Gather finds the target and the old root, brings retained files and image into
// RAM and checks all that can be checked. It changes nothing on the disk but what
// mounting read-only does by itself: a dirty journal is replayed.
func (r *Run) Gather(ctx context.Context, _ *Begun) (_ *Gathered, err error) {
	done := r.stage("gather")
	if err := r.checkMachine(); err != nil {
		return nil, err
	}
	if err := r.checkHooks(); err != nil {
		return nil, err
	}
	root, target, err := r.findMachine(ctx)
	if err != nil {
		return nil, err
	}
	g := &Gathered{gathered: gathered{Disk: *target, Record: r.Record}}
	r.Record.Target = report.Target{Path: target.Path, Bytes: target.Bytes, SectorSize: target.SectorSize,
		Serial: target.Serial, WWN: target.WWN, Model: target.Model}
	r.Report.Printf("target   %s", target)
	keeps := keeping{stick: r.stickKeeps(root)}
	if root != nil {
		r.Report.Printf("old root %s", root)
		g.OldRoot = root.fs.UUID
		if err := r.mountSystem(ctx, system{root: *root, named: r.Config.Old.Mounts, dir: oldDir}, unix.MS_RDONLY); err != nil {
			return nil, errors.Join(err, wake.UnmountBelow(oldDir))
		}
		defer func() { err = errors.Join(err, wake.UnmountBelow(oldDir)) }()
		if keeps.plan, err = r.plan(ctx); err != nil {
			return nil, err
		}
	}
	h, err := r.findBootFiles(ctx, target)
	if err != nil {
		return nil, err
	}
	source := r.Config.Image.Source
	if r.Job != nil {
		source = r.Job.Image.Source
	}
	if source.IsZero() {
		return nil, report.Hint(errors.New("find image: neither the configuration nor a job names one"), "set [image] source, or start through `reimager arm`")
	}
	err = r.withImage(ctx, source, target, func(from *offer) error { return r.take(ctx, g, keeps, from, h) })
	if err != nil {
		return nil, err
	}
	if err := g.save(); err != nil {
		return nil, err
	}
	done(r.Record.Image.CompressedBytes)
	return g, nil
}

// checkHooks refuses a kernel that could not run hooks apart from the rest.
func (r *Run) checkHooks() error {
	if len(r.Config.Hooks) == 0 {
		return nil
	}
	for _, name := range []string{"mnt", "pid", "uts", "ipc"} {
		if _, err := os.Stat("/proc/self/ns/" + name); err != nil {
			return report.Hint(fmt.Errorf("check hooks: this kernel has no %s namespaces: %w", name, err), "use a kernel with CONFIG_NAMESPACES and what is below it, or no hooks")
		}
	}
	return nil
}

// plan finds out what the list keeps.
func (r *Run) plan(ctx context.Context) (*retain.Plan, error) {
	if r.List.Empty() {
		return nil, nil
	}
	if err := r.List.CheckOwners(r.options().Owners); err != nil {
		return nil, err
	}
	plan, err := retain.Scan(ctx, oldDir, r.List)
	var missing *retain.MissingError
	if errors.As(err, &missing) && r.Config.Retain.Missing == "report" {
		r.warn("%v", missing)
		err = nil
	}
	if err != nil {
		return nil, err
	}
	for _, m := range append(plan.MaybeMissing, plan.Missing...) {
		if m.Set == "" { // nobody has all of a set
			r.Record.NotThere = append(r.Record.NotThere, m.Pattern)
		}
	}
	var surprises []string
	for _, s := range plan.Surprises {
		surprises = append(surprises, fmt.Sprintf("retained path %s: %s", s.Path, s.Why))
	}
	r.warnAll(surprises)
	return plan, nil
}
