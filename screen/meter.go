package screen

import (
	"math"
	"time"

	"reimager/report"
)

// Step is a part of a run as the page tells it.
type Step int

// The steps in their order.
const (
	Prepare Step = iota
	Write
	Check
	Restore
	Restart
	steps
)

// stepOf returns the step that a stage of a run belongs to.
func stepOf(stage string) (Step, bool) {
	switch stage {
	case "gather", "board", "prove", "carry on":
		return Prepare, true
	case "write":
		return Write, true
	case "read back":
		return Check, true
	case "restore":
		return Restore, true
	case "land":
		return Restart, true
	}
	return 0, false
}

// meter reckons how far a run is, and how long it takes yet. Each step counts as much as
// the bytes that it moves. It never goes backwards: when more gets known of the work,
// or the write begins again, what is left is spread over the rest of the bar.
type meter struct {
	work      report.Work
	rehearsal bool
	step      Step
	counts    map[string]report.Count // within the step

	anchor float64 // the share that was shown when the present reckoning began,
	base   float64 // and the weight that was done then
	shown  float64

	began     time.Time // of the step, once it moves bytes
	beganAt   float64   // weight that was done then
	rate      float64   // weight per second; 0: not known
	end       time.Time // when the run is over, smoothed
	lastLook  time.Time
	minutes   int
	estimated bool
}

func newMeter() *meter { return &meter{counts: map[string]report.Count{}} }

// weights says how much each step counts, in bytes. Without a map it is not known what
// an image decodes to: three times as much is usual. Decoding takes time, too.
func (m *meter) weights() [steps]float64 {
	image, mapped, retained := float64(m.work.Image), float64(m.work.Mapped), float64(m.work.Retained)
	if mapped == 0 {
		mapped = 3 * image
	}
	w := [steps]float64{Prepare: image + retained + mapped/4}
	if !m.rehearsal {
		w[Write], w[Check], w[Restore] = mapped, mapped, 2*retained
	}
	all := 0.0
	for _, one := range w {
		all += one
	}
	// Each step has things to do that move no bytes to speak of.
	least := max(all/50, 1<<20)
	for i := range w {
		if Step(i) == Prepare || Step(i) == Restart || !m.rehearsal {
			w[i] += least
		}
	}
	return w
}

// done returns the weight that is done, and that of all.
func (m *meter) done() (done, all float64) {
	for step, w := range m.weights() {
		all += w
		switch {
		case Step(step) < m.step:
			done += w
		case Step(step) == m.step:
			done += w * m.share()
		}
	}
	return done, all
}

// share is how much of its step is done.
func (m *meter) share() float64 {
	var done, total float64
	for _, c := range m.counts {
		done, total = done+float64(c.Done), total+float64(c.Total)
	}
	switch m.step {
	case Prepare:
		total = max(total, float64(m.work.Image+m.work.Retained))
	case Restore:
		total *= 2 // what is put back is compared afterwards
	}
	if total <= 0 || done <= 0 {
		return 0
	}
	return min(1, done/total)
}

// fraction is how much of the run is done, from 0 to 1; never less than it was.
func (m *meter) fraction() float64 {
	done, all := m.done()
	if left := all - m.base; left > 0 {
		m.shown = max(m.shown, min(1, m.anchor+(1-m.anchor)*(done-m.base)/left))
	}
	return m.shown
}

// reckon changes what the reckoning rests on, and begins it anew from what is shown.
func (m *meter) reckon(change func()) {
	m.anchor = m.fraction()
	change()
	m.base, _ = m.done()
	m.beganAt, m.began = m.base, time.Time{}
}

// enter begins a step.
func (m *meter) enter(step Step) {
	if step > m.step {
		m.fraction()
		m.step, m.counts, m.began = step, map[string]report.Count{}, time.Time{}
	}
}

// startAt begins the run once more at a step.
func (m *meter) startAt(step Step) {
	m.reckon(func() { m.step, m.counts = step, map[string]report.Count{} })
}

func (m *meter) count(c report.Count) { m.counts[c.What] = c }

const (
	// settle is how long a rate is measured before it counts.
	settle = 3 * time.Second
	// calm is the time in which the estimate follows what is measured.
	calm = 10 * time.Second
)

// left estimates the remaining time in whole minutes, 1 for less than one; 0 as long
// as nothing is known. Small changes of the rate do not show.
func (m *meter) left(now time.Time) int {
	done, all := m.done()
	if len(m.counts) > 0 && m.began.IsZero() {
		m.began, m.beganAt = now, done
	}
	if since := now.Sub(m.began); !m.began.IsZero() && since >= settle && done > m.beganAt {
		m.rate = (done - m.beganAt) / since.Seconds()
	}
	if m.rate <= 0 {
		return 0
	}
	end := now.Add(time.Duration(min((all-done)/m.rate, 1e6) * float64(time.Second)))
	if !m.estimated {
		m.end, m.estimated = end, true
	}
	follow := 1 - math.Exp(-now.Sub(m.lastLook).Seconds()/calm.Seconds())
	m.end = m.end.Add(time.Duration(follow * float64(end.Sub(m.end))))
	m.lastLook = now
	minutes := int(math.Ceil(m.end.Sub(now).Minutes()))
	if minutes > 20 {
		minutes = (minutes + 4) / 5 * 5
	}
	minutes = max(1, minutes)
	// A longer time than was said is told only if it is much longer.
	if m.minutes == 0 || minutes < m.minutes || minutes > m.minutes+1+m.minutes/4 {
		m.minutes = minutes
	}
	return m.minutes
}
