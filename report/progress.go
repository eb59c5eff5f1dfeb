package report

import (
	"fmt"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Progress counts bytes towards a total: a bar on screens, whole lines on serial
// consoles.
type Progress struct {
	r     *Reporter
	what  string
	total int64 // 0: not known
	start time.Time
	bars  []*progressbar.ProgressBar

	mu       sync.Mutex
	done     int64
	lastLine time.Time
	lastStep int64
	lastTold time.Time
}

// Lines on a serial console come at every tenth of the way, but not more often
// than once in lineEarliest, and at the latest after lineLatest, so that silence
// means trouble.
const (
	lineEarliest = time.Second
	lineLatest   = 10 * time.Second
)

// Progress starts counting towards total bytes.
func (r *Reporter) Progress(what string, total int64) *Progress {
	now := time.Now()
	p := &Progress{r: r, what: what, total: total, start: now, lastLine: now}
	limit := total
	if limit <= 0 {
		limit = -1 // a spinner
	}
	for _, c := range r.consoles {
		if c.screen {
			p.bars = append(p.bars, progressbar.NewOptions64(limit,
				progressbar.OptionSetWriter(c), progressbar.OptionSetDescription(what), progressbar.OptionShowBytes(true),
				progressbar.OptionUseIECUnits(true), progressbar.OptionSetWidth(30), progressbar.OptionThrottle(200*time.Millisecond),
				progressbar.OptionSetPredictTime(true),
				progressbar.OptionSetTheme(progressbar.Theme{Saucer: "=", SaucerHead: ">", SaucerPadding: " ", BarStart: "[", BarEnd: "]"})))
		}
	}
	return p
}

// Add counts n more bytes.
func (p *Progress) Add(n int64) {
	p.r.Moves()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	p.r.mu.Lock()
	for _, b := range p.bars {
		b.Add64(n) // it can only fail to draw
	}
	p.r.mu.Unlock()
	now := time.Now()
	if now.Sub(p.lastTold) >= countEvery {
		p.lastTold = now
		p.tell()
	}
	step := int64(0)
	if p.total > 0 {
		step = p.done * 10 / p.total
	}
	since := now.Sub(p.lastLine)
	if step > p.lastStep && step < 10 && since >= lineEarliest || since >= lineLatest {
		p.lastStep, p.lastLine = step, now
		p.line(now)
	}
}

func (p *Progress) tell() { p.r.Tell(Event{Count: &Count{p.what, p.done, p.total}}) }

func (p *Progress) line(now time.Time) {
	elapsed := now.Sub(p.start)
	text := fmt.Sprintf("%-8s %10s", p.what, mib(p.done))
	if p.total > 0 {
		text = fmt.Sprintf("%-8s %3d%% of %s", p.what, p.done*100/p.total, mib(p.total))
	}
	if s := elapsed.Seconds(); s > 0.2 && p.done > 0 {
		text += fmt.Sprintf(", %s/s", mib(int64(float64(p.done)/s)))
		if p.total > p.done {
			left := time.Duration(s * float64(p.total-p.done) / float64(p.done) * float64(time.Second))
			text += fmt.Sprintf(", %s left", left.Round(time.Second))
		}
	}
	p.r.serial(text)
}

// serial writes a line to the log and to those consoles that show no bar.
func (r *Reporter) serial(text string) {
	stamp := fmt.Sprintf("[%8.3f] ", time.Since(r.start).Seconds())
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintln(r.log, stamp+text)
	for _, c := range r.consoles {
		if !c.screen {
			c.line(stamp + text)
		}
	}
}

// Done ends the count and returns how long it took.
func (p *Progress) Done() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	took := time.Since(p.start)
	p.tell()
	p.r.mu.Lock()
	for _, b := range p.bars {
		b.Exit()
	}
	p.r.mu.Unlock()
	rate := ""
	if s := took.Seconds(); s > 0 && p.done > 0 {
		rate = fmt.Sprintf(", %s/s", mib(int64(float64(p.done)/s)))
	}
	p.r.Printf("%-8s done: %s in %.1f s%s", p.what, mib(p.done), took.Seconds(), rate)
	return took
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
