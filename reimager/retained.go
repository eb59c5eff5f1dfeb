package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"reimager/boot"
	"reimager/cli"
	"reimager/disk"
	"reimager/initrd"
	"reimager/report"
	"reimager/retain"
)

func retainedCommand() *cobra.Command {
	var root, list string
	var asJSON bool
	c := &cobra.Command{
		Use:   "retained [--list FILE]",
		Short: "Show what a retention list keeps of this machine",
		Long: `Shows which files a retention list keeps of this machine: type, mode, owner, size and
path of each, what required paths are missing, and what may surprise: owners without a
name, large files, sockets, links whose target is not kept. Nothing is changed.

Without --list the list is that of the initrd which this machine is armed with.

Exit status 1 if a required path is missing: a run would go back to the old system.`,
		Example: `  reimager retained --list keep.txt
  reimager retained --list keep.txt --root /mnt/old --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := readList(list)
			if err != nil {
				return err
			}
			plan, missing := retain.Scan(c.Context(), root, l)
			if plan == nil {
				return missing
			}
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return errors.Join(e.Encode(plan), missing)
			}
			return errors.Join(printPlan(plan, l, c.OutOrStdout()), missing)
		},
	}
	c.Flags().StringVar(&list, "list", "", "the retention list (default: that of the armed initrd)")
	c.Flags().StringVar(&root, "root", "/", "the root that it is about")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// readList reads a retention list, or the one in the initrd that is armed.
func readList(name string) (retain.List, error) {
	if name != "" {
		f, err := os.Open(name)
		if err != nil {
			return retain.List{}, fmt.Errorf("read retention list: %w", err)
		}
		defer f.Close()
		return retain.ParseList(name, f)
	}
	grub, err := boot.FindGRUB("/")
	if err != nil {
		return retain.List{}, report.Hint(err, "name the list: --list FILE")
	}
	in, err := initrd.Read(filepath.Join(folderOf(grub), initrdName))
	if errors.Is(err, fs.ErrNotExist) {
		return retain.List{}, report.Hint(errors.New("read retention list: this machine is not armed"), "name the list: --list FILE")
	}
	if err != nil {
		return retain.List{}, err
	}
	return in.List, nil
}

func printPlan(plan *retain.Plan, list retain.List, out io.Writer) error {
	owners, err := retain.ReadAccounts(plan.Root)
	if err != nil {
		return err
	}
	name := func(text string, id uint32) string {
		if text == "" {
			return fmt.Sprint(id)
		}
		return text
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, e := range plan.Entries {
		size := ""
		if e.Type == retain.TypeFile {
			size = disk.Size(e.Bytes)
		}
		what := e.Path.String()
		if e.HardLinkTo != "" {
			what += " = " + e.HardLinkTo.String()
		}
		fmt.Fprintf(t, "%s\t%s\t%s:%s\t%s\t%s\n", e.Type, e.Mode, name(owners.UserName(e.UID), e.UID), name(owners.GroupName(e.GID), e.GID), size, what)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, m := range plan.MaybeMissing {
		if m.Set == "" {
			fmt.Fprintf(out, "not there: %s (may be missing)\n", retain.Path(m.Pattern))
		}
	}
	for _, s := range plan.Surprises {
		fmt.Fprintf(out, "surprise: %s %s\n", s.Path, s.Why)
	}
	if list.Accounts {
		fmt.Fprintf(out, "accounts: people and services of this system are merged into the new one's\n")
	}
	_, err = fmt.Fprintf(out, "%d files and directories, %s; the archive takes at most %s of memory\n", len(plan.Entries), disk.Size(plan.ContentBytes), disk.Size(plan.ArchiveBytes))
	return err
}

func captureCommand() *cobra.Command {
	var root, list, output string
	c := &cobra.Command{
		Use:   "capture --root OLD --list FILE -o ARCHIVE",
		Short: "Capture by hand what a run would retain",
		Long: `Writes what a retention list keeps of a root into an archive, exactly as a run does:
a PAX tar with owners by name and number, times, extended attributes, ACLs, holes,
hard links and inode flags, which tar lists and unpacks. The root should be mounted
read-only, or be still: what changes meanwhile is an error.`,
		Example: `  reimager capture --root /mnt/old --list keep.txt -o kept.tar`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if list == "" || output == "" {
				return cli.Usagef("--list and --output are needed; see %s --help", c.CommandPath())
			}
			return capture(c.Context(), root, list, output, c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&root, "root", "/", "the root to capture from")
	c.Flags().StringVar(&list, "list", "", "the retention list")
	c.Flags().StringVarP(&output, "output", "o", "", "the archive to write; it holds keys: mode 0600")
	return c
}

func capture(ctx context.Context, root, list, output string, out io.Writer) (err error) {
	l, err := readList(list)
	if err != nil {
		return err
	}
	plan, err := retain.Scan(ctx, root, l)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(output, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make archive: %w", err)
	}
	summary, err := retain.Capture(ctx, plan, f, nil)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(output)) // half an archive is none
	}
	for _, s := range plan.Surprises {
		fmt.Fprintf(out, "surprise: %s %s\n", s.Path, s.Why)
	}
	_, err = fmt.Fprintf(out, "%s: %d files and directories, %s\n", output, len(summary.Entries), disk.Size(summary.ArchiveBytes))
	return err
}

func restoreCommand() *cobra.Command {
	var root, owners string
	var asJSON, verifyOnly bool
	c := &cobra.Command{
		Use:   "restore --root NEW ARCHIVE",
		Short: "Put a captured archive back by hand",
		Long: `Puts an archive of "reimager capture" back beneath a root, exactly as a run does, reads
everything back and compares. Owners are mapped by name to the numbers of that root.
Nothing is written outside the root. What could not be put back is named; the exit
status is then 1.`,
		Example: `  reimager restore --root /mnt/new kept.tar
  reimager restore --root /mnt/new --compare kept.tar   # only compare`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o := retain.Options{Owners: retain.ByName}
			switch owners {
			case "name":
			case "id":
				o.Owners = retain.ByID
			default:
				return cli.Usagef("--owners %s: expected name or id", owners)
			}
			if root == "" {
				return cli.Usagef("--root is missing; see %s --help", c.CommandPath())
			}
			return restore(c.Context(), root, args[0], o, verifyOnly, asJSON, c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&root, "root", "", "the root to put it back beneath")
	c.Flags().StringVar(&owners, "owners", "name", "name: as that root numbers them; id: by the old numbers")
	c.Flags().BoolVar(&verifyOnly, "compare", false, "compare only, change nothing")
	c.Flags().BoolVar(&asJSON, "json", false, "what was done, as JSON")
	return c
}

// handRestored is what reimager restore --json prints.
type handRestored struct {
	*retain.Report
	Differences []retain.Difference `json:"differences"`
}

func restore(ctx context.Context, root, archive string, o retain.Options, verifyOnly, asJSON bool, out io.Writer) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	defer f.Close()
	done := handRestored{Report: &retain.Report{}, Differences: []retain.Difference{}}
	if !verifyOnly {
		if done.Report, err = retain.Restore(ctx, root, f, o); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
	}
	found, err := retain.Verify(ctx, root, f, o)
	if err != nil {
		return err
	}
	done.Differences = append(done.Differences, found...)
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(done)
	} else {
		printRestored(done, out)
	}
	if n := len(done.Conflicts) + len(found); n > 0 && err == nil {
		err = fmt.Errorf("restore beneath %s: %d differences from the archive", root, n)
	}
	return err
}

func printRestored(done handRestored, out io.Writer) {
	for _, e := range done.Entries {
		if e.Replaced && e.Type != retain.TypeDirectory {
			fmt.Fprintf(out, "replaced: %s\n", e.Path)
		}
	}
	for _, c := range done.Conflicts {
		fmt.Fprintf(out, "not put back: %s: %s\n", c.Path, c.Why)
	}
	for _, l := range done.Lost {
		fmt.Fprintf(out, "lost: the %s of %s: %s\n", l.Attribute, l.Path, l.Why)
	}
	if done.Accounts != nil {
		fmt.Fprintf(out, "accounts: %s\n", done.Accounts.Summary())
		for _, e := range done.Accounts.Entries {
			fmt.Fprintf(out, "account: %s\n", e)
		}
	}
	for _, u := range done.Unmapped {
		fmt.Fprintf(out, "no %s %q here: %d files keep the number %d\n", u.Kind, u.Name, u.Files, u.ID)
	}
	for _, d := range done.Differences {
		fmt.Fprintf(out, "differs: %s: %s is %s, expected %s\n", d.Path, d.What, d.Got, d.Want)
	}
	fmt.Fprintf(out, "%d files and directories are back%s\n", len(done.Entries), map[bool]string{true: " and were compared"}[len(done.Differences) == 0])
}
