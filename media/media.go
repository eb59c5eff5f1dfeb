// Package media makes the stick for a machine that does not boot: it starts by BIOS and
// UEFI, and replaces the machine's system by a release that lies on it.
package media

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/renameio/v2"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/initrd"
	"reimager/report"
	"reimager/retain"
)

// Options say what is on a stick.
type Options struct {
	Release string // directory
	Output  string // raw image to write
	Keep    string // an archive of `reimager capture`; "": none
	// Unattended replaces without a choice, once.
	Unattended bool
	// Keys have to have signed the release, beside those in its initrd.
	Keys []image.Key
	// Append are further kernel parameters, such as consoles.
	Append []string
	GRUB   string // folder with GRUB's modules for each platform
	Now    time.Time
}

// Result is what was made.
type Result struct {
	Output   string   `json:"output"`
	Bytes    int64    `json:"bytes"`
	RunID    string   `json:"run_id"`
	VolumeID string   `json:"volume_id"`
	Release  string   `json:"release"`
	SignedBy string   `json:"signed_by,omitempty"`
	Kept     int      `json:"kept"` // files and directories in the archive
	Warnings []string `json:"warnings,omitempty"`
}

// Where things lie on the stick.
const (
	folder      = "/reimager"
	releaseDir  = folder + "/release"
	jobFile     = folder + "/job.json"
	gateFile    = folder + "/gate"
	keptFile    = folder + "/kept.tar"
	menuFile    = folder + "/grub.cfg"
	uefiLoader  = "/EFI/BOOT/BOOTX64.EFI"
	sectorBytes = 512
	mib         = 1 << 20
	partStart   = mib       // bytes
	maxFATFile  = 1<<32 - 1 // bytes: the directory entry has 32 bits
)

// maker is a stick in the making.
type maker struct {
	Options
	*Result
	tools    *tools
	work     string
	manifest *image.Manifest
	digest   image.Digest
	initrd   *initrd.Initrd
	files    []file // on the stick
}

// file is a file of the stick: a path there, and where it lies on this host.
type file struct{ path, from string }

// Make makes a stick. The image appears whole or not at all.
func Make(ctx context.Context, o Options) (_ *Result, err error) {
	m := &maker{Options: o, Result: &Result{Output: o.Output}}
	if m.tools, err = findTools(o.GRUB); err != nil {
		return nil, err
	}
	// It holds what the stick holds, keys perhaps: not in a /tmp that everybody reads.
	if m.work, err = os.MkdirTemp(filepath.Dir(filepath.Clean(o.Output)), ".reimager-media-"); err != nil {
		return nil, fmt.Errorf("make stick: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(m.work)) }()
	var id [8]byte
	rand.Read(id[:])
	m.RunID = rand.Text()
	m.VolumeID = fmt.Sprintf("%02X%02X-%02X%02X", id[0], id[1], id[2], id[3])
	for _, step := range []func() error{m.addRelease, m.judge, m.addJob, m.addMenu} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return m.Result, m.write(ctx, binary.LittleEndian.Uint32(id[4:]))
}

func (m *maker) warn(format string, args ...any) {
	m.Warnings = append(m.Warnings, fmt.Sprintf(format, args...))
}

// addRelease copies the release, proving each file as it is copied, and holds it to the
// keys in its own initrd, as the machine will.
func (m *maker) addRelease() error {
	root, err := os.OpenRoot(m.Options.Release)
	if err != nil {
		return fmt.Errorf("open release: %w", err)
	}
	defer root.Close()
	if !image.IsRelease(root) {
		return report.Hint(fmt.Errorf("open release %s: there is no %s in it", m.Options.Release, image.ManifestName), "name a release of imagebuild pack")
	}
	r, err := image.OpenRelease(root, image.Trust{Keys: m.Keys, Unsigned: len(m.Keys) == 0, Unchecked: true})
	if err != nil {
		return err
	}
	m.manifest, m.digest = r.Manifest, r.Digest
	m.Result.Release = r.Manifest.String()
	if m.manifest.Kernel == nil || m.manifest.Initrd == nil {
		return report.Hint(fmt.Errorf("open release %s: there is no kernel and initrd in it", m.Options.Release), "pack it with --kernel and --initrd")
	}
	if m.manifest.Image.Bytes > maxFATFile {
		return report.Hint(fmt.Errorf("make stick: the image has %s, a file on a stick's FAT at most 4 GiB", disk.Size(m.manifest.Image.Bytes)), "pack it as zst, or from a smaller image")
	}
	to := filepath.Join(m.work, "release")
	names, err := r.CopyTo(to)
	if err != nil {
		return err
	}
	if err := plainNames(names); err != nil {
		return err
	}
	for _, name := range names {
		m.files = append(m.files, file{releaseDir + "/" + name, filepath.Join(to, name)})
	}
	if m.initrd, err = initrd.Read(filepath.Join(to, m.manifest.Initrd.Name)); err != nil {
		return err
	}
	trust := image.Trust{Keys: m.initrd.Keys, Unsigned: m.initrd.Config.Trust.Signature == "if-present"}
	if err := r.Judge(trust); err != nil {
		return fmt.Errorf("check release with the keys in its initrd: %w", err)
	}
	if r.SignedBy != nil {
		m.SignedBy = r.SignedBy.ID()
	}
	kernel, err := os.Open(filepath.Join(to, m.manifest.Kernel.Name))
	if err != nil {
		return err
	}
	_, err = m.initrd.CheckKernel(kernel)
	return errors.Join(err, kernel.Close(), m.manifest.CheckCompatible(m.initrd.Config.Machine.Compatible))
}

// judge says what the person who makes the stick should know.
func (m *maker) judge() error {
	c := m.initrd.Config
	if m.Unattended && c.New.LogDir == config.LogOff {
		return report.Hint(errors.New(`make stick: a machine without a record ([new] log_dir = "off") cannot be told from one that is still to be replaced`), "leave --unattended out, or bake the initrd with a log_dir")
	}
	for _, name := range []string{"vfat", "usb_storage"} {
		if !m.initrd.Index.Has(name) {
			m.warn("the initrd has no module %s: unless its kernel has it built in, the stick will not find itself", name)
		}
	}
	if m.Unattended {
		m.warn("this stick replaces the operating system of the first machine that starts from it, without a question: never leave it lying about")
	}
	switch {
	case m.Keep != "":
		m.warn("the stick holds the files of one machine, keys perhaps: use it there and nowhere else, and wipe it afterwards")
	case !m.initrd.List.Empty():
		m.warn("no --keep: a machine whose old system is lost comes back with the image's own identity")
	}
	return nil
}

// addJob makes the job, the archive that it names, and the gate.
func (m *maker) addJob() error {
	at := func(path string) config.Source {
		return config.Source{Device: config.Device{Kind: config.ByUUID, Value: m.VolumeID}, Path: path}
	}
	r := m.manifest
	job := &config.Job{
		Format: config.JobFormat, RunID: m.RunID, Armed: m.Now.UTC().Truncate(time.Second),
		Image:   config.JobImage{Source: at(releaseDir), Bytes: r.Image.Bytes, SHA256: r.Image.SHA256.String()},
		Release: config.JobRelease{Name: r.Name, Version: r.Version, Counter: r.Counter, Manifest: m.digest.String()},
		Media:   &config.JobMedia{},
	}
	if m.Keep != "" {
		keep, err := m.copyKept()
		if err != nil {
			return fmt.Errorf("read archive %s: %w", m.Keep, err)
		}
		keep.Source = at(keptFile)
		job.Media.Keep, m.Kept = keep, keep.Files
	}
	if m.Unattended {
		gate, err := boot.Gate(m.RunID, boot.GateArmed, 0)
		if err != nil {
			return err
		}
		job.Gate = at(gateFile)
		if err := m.add(gateFile, gate); err != nil {
			return err
		}
	}
	text, err := job.Encode()
	if err != nil {
		return err
	}
	return m.add(jobFile, text)
}

// copyKept copies the archive and proves the copy to be one.
func (m *maker) copyKept() (*config.JobKeep, error) {
	in, err := os.Open(m.Keep)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	name := filepath.Join(m.work, "kept.tar")
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // of a copy that mcopy reads, or reports as short
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), in)
	if err != nil {
		return nil, err
	}
	if n > maxFATFile {
		return nil, fmt.Errorf("it has %s, a file on a stick's FAT at most 4 GiB", disk.Size(n))
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	files, err := retain.CheckArchive(out)
	if err != nil {
		return nil, report.Hint(err, "make it with reimager capture")
	}
	m.files = append(m.files, file{keptFile, name})
	return &config.JobKeep{Bytes: n, SHA256: hex.EncodeToString(sum.Sum(nil)), Files: files}, nil
}

// add adds a file of ours.
func (m *maker) add(path string, content []byte) error {
	from := filepath.Join(m.work, "file"+strconv.Itoa(len(m.files)))
	if err := os.WriteFile(from, content, 0o600); err != nil {
		return fmt.Errorf("make stick: %w", err)
	}
	m.files = append(m.files, file{path, from})
	return nil
}

func (m *maker) addMenu() error {
	job := config.Source{Device: config.Device{Kind: config.ByUUID, Value: m.VolumeID}, Path: jobFile}
	menu := boot.StickMenu{
		VolumeID: m.VolumeID, Title: "Replace the operating system of this machine with " + m.manifest.Name + " " + m.manifest.Version,
		Kernel: releaseDir + "/" + m.manifest.Kernel.Name, Initrd: releaseDir + "/" + m.manifest.Initrd.Name,
		Cmdline: append(append([]string{"quiet", "panic=10"}, m.Append...), "reimager.job="+job.String(), "reimager.media"),
		RunID:   m.RunID, Once: "reimager.once",
	}
	if m.Unattended {
		menu.Gate = gateFile
	}
	text, err := menu.Render()
	if err != nil {
		return err
	}
	return m.add(menuFile, []byte(text))
}

// write puts the stick together.
func (m *maker) write(ctx context.Context, signature uint32) (err error) {
	core, err := m.tools.makeGRUB(ctx, m.work, biosPlatform, m.VolumeID)
	if err != nil {
		return err
	}
	loader, err := m.tools.makeGRUB(ctx, m.work, uefiPlatform, m.VolumeID)
	if err != nil {
		return err
	}
	if err := m.add(uefiLoader, loader); err != nil {
		return err
	}
	size, err := m.fatBytes()
	if err != nil {
		return err
	}
	// It may hold a machine's keys.
	stick, err := renameio.NewPendingFile(m.Options.Output, renameio.WithPermissions(0o600), renameio.IgnoreUmask())
	if err != nil {
		return fmt.Errorf("write stick: %w", err)
	}
	defer func() { err = errors.Join(err, stick.Cleanup()) }()
	m.Bytes = partStart + size
	if err := stick.Truncate(m.Bytes); err != nil {
		return fmt.Errorf("write stick: %w", err)
	}
	if err := m.writeFAT(ctx, stick.Name(), size); err != nil {
		return fmt.Errorf("write stick: %w", err)
	}
	if err := m.tools.writeBoot(stick.File, core, signature, size); err != nil {
		return fmt.Errorf("write stick: %w", err)
	}
	if err := stick.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write stick: %w", err)
	}
	return nil
}
