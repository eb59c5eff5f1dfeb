package stages

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/lifeboat"
	"reimager/wake"
)

// loader begins to load the berth.
func (r *Run) loader(g *Gathered) (*boarding, error) {
	// What is mounted for reading meanwhile does not reach into the berth.
	dev, err := disk.OpenShared(g.Disk.Path)
	if err != nil {
		return nil, err
	}
	l, err := lifeboat.NewLoader(dev, *g.Berth, r.Job.RunID)
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return &boarding{Loader: l, dev: dev}, nil
}

// streamImage copies an image that does not fit into memory from its source to the
// berth: the same bytes that were proven when they were read before.
func (r *Run) streamImage(g *Gathered, from *offer) (err error) {
	if r.boarding, err = r.loader(g); err != nil {
		return err
	}
	in, err := from.again()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	digest, err := r.imageDigest()
	if err != nil {
		return err
	}
	bar := r.Report.Progress("stream", from.bytes)
	w, err := r.boarding.CreateKnown(lifeboat.Image, from.bytes, digest)
	if err != nil {
		return err
	}
	if err := lifeboat.CopyInto(w, io.TeeReader(in, countTo(bar))); err != nil {
		return err
	}
	bar.Done()
	return nil
}

// imageDigest is that of the compressed image, which was proven.
func (r *Run) imageDigest() (d image.Digest, err error) {
	if err := d.UnmarshalText([]byte(r.Record.Image.SHA256)); err != nil {
		return d, fmt.Errorf("board image: %w", err)
	}
	return d, nil
}

// boarding is a lifeboat that is being loaded.
type boarding struct {
	*lifeboat.Loader
	dev *disk.Device
}

// Boarded is a machine whose lifeboat is complete. Its old system is whole, and tries
// the lifeboat out at the next start.
type Boarded struct{ *lifeboat.Boat }

// Board writes the lifeboat, and has the old system's boot loader start it once. It
// returns nil where there is none and none is required.
func (r *Run) Board(ctx context.Context, g *Gathered, begun *Begun) (*Boarded, error) {
	if g.Berth == nil {
		return nil, nil
	}
	done := r.stage("board")
	boat, err := r.load(ctx, g, begun)
	if err == nil {
		if err = r.setGate(ctx, boot.GateProve, g.Berth.Off/boot.SectorBytes); err != nil {
			// It may have been written all the same.
			retracted := r.setGate(ctx, boot.GateTried, g.Berth.Off/boot.SectorBytes)
			err = errors.Join(err, notCleared(errors.Join(retracted, sink(&g.Disk, boat))))
		}
	}
	switch {
	case err != nil && (g.Afloat || r.Config.PowerCut.Lifeboat == "require" || errors.Is(err, errNotCleared)):
		return nil, fmt.Errorf("board the lifeboat: %w", err)
	case err != nil:
		g.Berth, r.Record.Lifeboat = nil, nil
		return nil, errors.Join(r.without(fmt.Errorf("board it: %w", err)), g.save())
	}
	done(used(boat))
	r.Report.Printf("board    %s in %s, read back; the old system's GRUB starts it next", disk.Size(used(boat)), g.Berth.Where)
	return &Boarded{boat}, nil
}

// errNotCleared says that what boarded may be left in the berth, the key too, or the order
// to start it: nobody goes on with a machine that would keep them. Undoing tries again, by
// another process.
var errNotCleared = errors.New("the lifeboat could not be cleared away")

func notCleared(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errNotCleared, err)
}

// used is how many bytes of the disk a lifeboat takes.
func used(b *lifeboat.Boat) (n int64) {
	for _, e := range b.Keep() {
		n += e.Bytes
	}
	return n
}

// load fills the berth. What is read from /boot is what the manifest says, or where there
// is none the same twice.
func (r *Run) load(ctx context.Context, g *Gathered, begun *Begun) (_ *lifeboat.Boat, err error) {
	b, start := r.boarding, time.Now()
	if b == nil {
		if b, err = r.loader(g); err != nil {
			return nil, err
		}
	}
	r.boarding = nil
	defer func() {
		if err != nil {
			err = errors.Join(err, notCleared(b.Abandon()))
		}
		err = errors.Join(err, b.dev.Close())
	}()
	if !g.Afloat { // or else it is there already
		done, err := r.boardImage(b.Loader)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	if err := r.fill(ctx, b.Loader, g); err != nil {
		return nil, err
	}
	// Reading it back comes when this is on the disk; it takes about as long once more.
	r.Record.Took("board", time.Since(start), 0)
	state, err := r.passage(ctx, g, begun)
	if err != nil {
		return nil, err
	}
	g.StateAt = b.Next(int64(len(state)))
	if err := g.save(); err != nil {
		return nil, err
	}
	w, err := b.Create(lifeboat.Saved, int64(len(state)))
	if err != nil {
		return nil, err
	}
	if err := lifeboat.CopyInto(w, bytes.NewReader(state)); err != nil {
		return nil, err
	}
	core, err := readCore()
	if err != nil {
		return nil, err
	}
	cmdline, err := lifeboatCmdline(r.Job, g.Berth)
	if err != nil {
		return nil, err
	}
	bar := r.Report.Progress("read back", 0)
	boat, err := b.Finish(ctx, core, cmdline, bar.Add)
	if err != nil {
		return nil, err
	}
	bar.Done()
	return boat, checkCopies(boat.Header())
}

// boardImage boards the image from RAM. It stays open until done is called: what is read
// back is compared with it.
func (r *Run) boardImage(l *lifeboat.Loader) (done func(), err error) {
	digest, err := r.imageDigest()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(ramImage)
	if err != nil {
		return nil, fmt.Errorf("board image: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		err = l.Copy(lifeboat.Image, f, info.Size(), digest)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

// fill adds the sections that are files already.
func (r *Run) fill(ctx context.Context, l *lifeboat.Loader, g *Gathered) error {
	if g.ArchiveBytes > 0 {
		f, err := os.Open(ramArchive)
		if err != nil {
			return fmt.Errorf("board archive: %w", err)
		}
		err = addFile(f, lifeboat.Archive, func(n int64) (io.WriteCloser, error) { return l.Create(lifeboat.Archive, n) })
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name, section string // section is the first of two copies
		source        config.Source
	}{
		{lifeboat.Kernel, lifeboat.Kernel, r.Job.Boot.Kernel}, {lifeboat.Kernel2, lifeboat.Kernel, r.Job.Boot.Kernel},
		{lifeboat.Initrd, lifeboat.Initrd, r.Job.Boot.Initrd}, {lifeboat.Initrd2, lifeboat.Initrd, r.Job.Boot.Initrd},
	} {
		err := r.withFile(ctx, f.source, func(in *os.File) error {
			if digest, known := g.starters[f.section]; known {
				return addFile(in, f.name, func(n int64) (io.WriteCloser, error) { return l.CreateKnown(f.name, n, digest) })
			}
			return addFile(in, f.name, func(n int64) (io.WriteCloser, error) { return l.Create(f.name, n) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// checkCopies compares what boards twice: each copy was read from the old system by
// itself, and the trial starts only the first.
func checkCopies(h lifeboat.Header) error {
	for _, names := range [][2]string{{lifeboat.Kernel, lifeboat.Kernel2}, {lifeboat.Initrd, lifeboat.Initrd2}} {
		first, _ := h.Section(names[0])
		second, _ := h.Section(names[1])
		if first.SHA256 != second.SHA256 {
			return fmt.Errorf("board %s: it was read twice, with the SHA-256 %s and %s", names[0], first.SHA256, second.SHA256)
		}
	}
	return nil
}

// lifeboatCmdline are the kernel's parameters when it is started from the berth. The job
// in the old system is for who has to report there that the berth cannot be read.
func lifeboatCmdline(job *config.Job, b *lifeboat.Berth) ([]string, error) {
	p, err := ReadParameters()
	return append(strings.Fields(job.Boot.Cmdline),
		fmt.Sprintf("%s=%s@%d", boot.LifeboatParameter, job.RunID, b.Off/boot.SectorBytes), JobParameter+"="+p.Job), err
}

// addFile fills the section that create makes for so many bytes.
func addFile(f *os.File, name string, create func(bytes int64) (io.WriteCloser, error)) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("board %s: %w", name, err)
	}
	w, err := create(info.Size())
	if err != nil {
		return err
	}
	return lifeboat.CopyInto(w, f)
}

// passage is what the start that boarded knows, for the one that goes on: the section
// "state" of the berth.
type passage struct {
	Gathered gathered    `json:"gathered"`
	Job      *config.Job `json:"job"`
	Rehearse bool        `json:"rehearse"`
	// Init and Kernel are what boarded: nothing else may go on.
	Init   string `json:"init_sha256"`
	Kernel string `json:"kernel"`
	// OldMounts tells whether the old system was started meanwhile; "": nobody can tell.
	OldMounts string `json:"old_mounts,omitempty"`
	Log       string `json:"log"`
}

func (r *Run) passage(ctx context.Context, g *Gathered, begun *Begun) ([]byte, error) {
	p := passage{Gathered: g.gathered, Job: r.Job, Rehearse: begun.Rehearse()}
	var err error
	if p.Init, p.Kernel, err = running(); err != nil {
		return nil, err
	}
	if p.OldMounts, err = r.oldMounts(ctx); err != nil {
		return nil, err
	}
	log, err := os.ReadFile(r.LogFile)
	if err != nil {
		return nil, fmt.Errorf("board the log: %w", err)
	}
	p.Log = carriedLog(log)
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("board the state: %w", err)
	}
	return text, nil
}

// maxLogAboard bounds the log that is carried on, in bytes.
const maxLogAboard = 1 << 20

// carriedLog is the beginning of a log, and says so.
func carriedLog(log []byte) string {
	if len(log) <= maxLogAboard {
		return string(log)
	}
	return fmt.Sprintf("%s…\n(%d bytes more of the log of the first start were not carried aboard)\n", log[:maxLogAboard], len(log)-maxLogAboard)
}

// running tells what program and what kernel this is.
func running() (init, kernel string, err error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", "", fmt.Errorf("look at this program: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", "", fmt.Errorf("look at this program: %w", err)
	}
	kernel, err = wake.KernelRelease()
	return hex.EncodeToString(sum.Sum(nil)), kernel, err
}

// wholeLog is the log of this start, behind that of the one which boarded.
func (r *Run) wholeLog() ([]byte, error) {
	log, err := os.ReadFile(r.LogFile)
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	return append([]byte(r.earlier), log...), nil
}

// retractGate takes back the order to start the lifeboat, if it was given.
func (r *Run) retractGate(ctx context.Context, sector int64) error {
	_, state, err := r.readGate(ctx)
	if err != nil || state != boot.GateProve {
		return err
	}
	return r.setGate(ctx, boot.GateTried, sector)
}

// setGate overwrites the gate where it lies.
func (r *Run) setGate(ctx context.Context, state boot.GateState, sector int64) error {
	gate, _, err := r.readGate(ctx)
	if err != nil {
		return err
	}
	block, err := boot.Gate(r.Job.RunID, state, sector)
	if err != nil {
		return err
	}
	same := func(_ int, b []byte) bool { return bytes.Equal(b, gate.begin) }
	return gate.overwrite(boot.EnvSize, [][]byte{block}, same)
}

// readGate finds out where the gate lies, and what it says.
func (r *Run) readGate(ctx context.Context) (gate *placed, state boot.GateState, err error) {
	at, err := r.await(ctx, r.Job.Gate.Device, nil)
	if err != nil {
		return nil, "", err
	}
	if gate, err = r.lookAt(ctx, at, r.Job.Gate, boot.EnvSize); err != nil {
		return nil, "", err
	}
	state, _, err = boot.ReadGate(r.Job.RunID, gate.begin)
	return gate, state, err
}
