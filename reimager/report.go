package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"reimager/cli"
	"reimager/delivery"
	"reimager/delivery/send"
	"reimager/report"
	"reimager/retain"
)

func reportCommand() *cobra.Command {
	var wait, show bool
	var logDir string
	c := &cobra.Command{
		Use:   "report [--wait|--show]",
		Short: "Deliver the record of the last run",
		Long: `Delivers the record of the last run (failed, rehearsed, interrupted or done) to the
places that [report] of the configuration in its initrd has named: a command, a file,
an HTTPS endpoint. One that has it is not asked again. A place gets the same run more than
once, under the same run id, if the power fails between a delivery and the note of it, if
it has taken the record and says otherwise or too late, or if its name is changed.

Without options each place is tried once. With --wait, as reimager-report.service has
it, places are tried until all of them have the record: after 5 s, then after pauses
twice as long each time up to retry; an endpoint that refuses the record is asked again
after retry.

With --show what would be delivered is printed, whether or not a place is named.

Exit status:
  0  there is nothing (more) to deliver; with --show, it was printed
  1  a place does not have the record, or what is to be delivered could not be found out;
     with --show, no run has ended on this machine
  2  wrong usage`,
		RunE: func(c *cobra.Command, _ []string) error {
			if wait && show {
				return cli.Usagef("--wait and --show: expected one of them")
			}
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
			defer stop()
			d := deliverer{machine: thisMachine(logDir), out: c.OutOrStdout(), first: firstPause}
			switch {
			case show:
				return d.show()
			case wait:
				return d.wait(ctx)
			}
			_, err := d.round(ctx)
			return err
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "try until it is delivered")
	c.Flags().BoolVar(&show, "show", false, "show what would be delivered, and deliver nothing")
	c.Flags().StringVar(&logDir, "log-dir", "", "where the run has left record.json (default: where it says, else /var/log/reimager)")
	return c
}

// firstPause is the pause after the first round of attempts that did not succeed.
const firstPause = 5 * time.Second

// deliverer delivers what a machine has to tell.
type deliverer struct {
	machine
	out   io.Writer
	first time.Duration
}

// wait delivers until nothing is left, or ctx ends.
func (d deliverer) wait(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		longest, err := d.round(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		pause := send.Pause(attempt, d.first, longest, rand.Float64())
		if send.Refused(err) {
			pause = longest
		}
		pause = max(pause, min(send.After(err), longest))
		fmt.Fprintf(d.out, "report: %s\nnext attempt in %s\n", report.Explain(err), pause.Round(time.Second))
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// round tries each place that does not have the record once. It returns the longest
// pause until the next round.
func (d deliverer) round(ctx context.Context) (longest time.Duration, err error) {
	// What cannot even be read is looked at again as seldom as this.
	longest = 15 * time.Minute
	root, err := os.OpenRoot(d.root)
	if err != nil {
		return longest, err
	}
	defer root.Close()
	settings, err := delivery.ReadSettings(root)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(d.out, "nothing to deliver: this machine has no [report] settings")
		return longest, nil
	}
	if err != nil {
		return longest, readable(err)
	}
	longest = settings.To.Retry.Duration
	last, err := d.lastRun()
	if err != nil {
		return longest, err
	}
	if last.runID == "" {
		fmt.Fprintln(d.out, "nothing to deliver: no run has ended on this machine")
		return longest, nil
	}
	body, err := d.message(last).Encode()
	if err != nil {
		return longest, err
	}
	unlock, err := lockDelivery(root)
	if err != nil {
		return longest, err
	}
	defer unlock()
	notes, err := delivery.ReadNotes(root, last.runID)
	if err != nil {
		return longest, readable(err)
	}
	var all []error
	for _, place := range delivery.Places(settings.To) {
		if notes.Done(place) {
			fmt.Fprintf(d.out, "%s has the record of run %s\n", place, last.runID)
			continue
		}
		all = append(all, d.deliver(ctx, root, place, settings, notes, body))
	}
	return longest, errors.Join(all...)
}

// deliver makes one attempt. It is noted before, too: a machine that cannot note
// anything must not deliver the same record for ever.
func (d deliverer) deliver(ctx context.Context, root *os.Root, place delivery.Place, settings *delivery.Settings, notes delivery.Notes, body []byte) error {
	try := notes.Places[place.String()]
	try.Attempts, try.Last, try.Error = try.Attempts+1, time.Now().UTC().Truncate(time.Second), "it was not ended"
	notes.Places[place.String()] = try
	if err := notes.Write(root); err != nil {
		return report.Hint(fmt.Errorf("deliver to %s: note the attempt: %w", place, err), "nothing was sent: without a note it would be sent again and again")
	}
	err := send.Once(ctx, place, settings.To, notes.RunID, version, body)
	if err != nil {
		try.Error = err.Error()
	} else {
		try.Error, try.Delivered = "", time.Now().UTC().Truncate(time.Second)
	}
	notes.Places[place.String()] = try
	if noted := notes.Write(root); noted != nil {
		return errors.Join(err, fmt.Errorf("note the delivery to %s: %w", place, noted))
	}
	if err == nil {
		fmt.Fprintf(d.out, "delivered the record of run %s to %s\n", notes.RunID, place)
	}
	return err
}

// show prints what would be delivered.
func (d deliverer) show() error {
	last, err := d.lastRun()
	if err != nil {
		return err
	}
	if last.runID == "" {
		return errors.New("show record: no run has ended on this machine")
	}
	body, err := d.message(last).Encode()
	if err != nil {
		return err
	}
	_, err = d.out.Write(body)
	return err
}

// pending tells whether a place still lacks the record of the last run. What cannot be
// found out is taken for pending.
func (m machine) pending() bool {
	last, err := m.lastRun()
	if err != nil {
		return true
	}
	all, err := m.deliveries(last)
	if err != nil {
		return true
	}
	for _, d := range all {
		if !d.Delivered {
			return true
		}
	}
	return false
}

// message is what is delivered of a run.
func (m machine) message(last *lastRun) delivery.Message {
	msg := delivery.Message{RunID: last.runID, State: last.state, MachineID: m.firstLine("etc/machine-id"), Program: version}
	msg.Host, _ = os.Hostname() // without a name it is known by its machine id
	if last.record == nil {
		return msg
	}
	record := *last.record
	if put, ok := record.Retained.(*retain.Report); ok && put != nil {
		record.Retained = keptOf(put)
	}
	msg.Record = &record
	return msg
}

func keptOf(put *retain.Report) delivery.Kept {
	kept := delivery.Kept{Files: len(put.Entries), Bytes: put.ContentBytes, Lost: len(put.Lost), Unmapped: len(put.Unmapped)}
	for _, c := range put.Conflicts {
		kept.Conflicts = append(kept.Conflicts, fmt.Sprintf("%s: %s", c.Path, c.Why))
	}
	if put.Accounts != nil {
		kept.Accounts = put.Accounts.Summary()
	}
	return kept
}

func (m machine) firstLine(name string) string {
	text, err := os.ReadFile(filepath.Join(m.root, name))
	if err != nil {
		return "" // not every system has one
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

// lockDelivery keeps two commands from delivering the same record at once. The lock
// ends with the process at the latest.
func lockDelivery(root *os.Root) (unlock func(), err error) {
	dir := filepath.Dir(delivery.NotesPath)
	if err := root.MkdirAll(dir, 0o700); err != nil {
		return nil, readable(fmt.Errorf("lock delivery: %w", err))
	}
	f, err := root.Open(dir)
	if err != nil {
		return nil, readable(fmt.Errorf("lock delivery: %w", err))
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(report.Hint(fmt.Errorf("lock /%s: %w", dir, err), "another reimager report is at work; wait for it"), f.Close())
	}
	return func() { _ = f.Close() }, nil // nothing was written through it
}
