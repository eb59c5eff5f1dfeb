package screen

import (
	"strings"
	"sync"
	"time"

	"reimager/report"
	"reimager/screen/texts"
)

// Page is drawn on a virtual terminal by a goroutine of its own: whoever reports does
// not wait for it. A nil *Page shows nothing, on machines without a screen.
type Page struct {
	texts texts.Texts

	mu    sync.Mutex
	state State
	meter *meter

	changed chan struct{}      // holds a token when the state has changed
	flush   chan chan struct{} // closed when the state was drawn
}

const (
	// tick is how often the page looks at time, size and damage.
	tick = time.Second
	// anew is how often all of it is drawn, whatever is seen of damage.
	anew = 30 * time.Second
)

// Open shows the page on virtual terminal n, which comes to the front. details is the
// number of the terminal that has the log, 0 if there is none. An error with a page
// says that the page is there but may not be in front.
func Open(n int, t texts.Texts, details int) (*Page, error) {
	terminal, err := openTerminal(n)
	if terminal == nil {
		return nil, err
	}
	p := newPage(t, details)
	terminal.write([]byte(begin))
	go p.run(terminal)
	return p, err
}

func newPage(t texts.Texts, details int) *Page {
	return &Page{texts: t, state: State{Details: details}, meter: newMeter(),
		changed: make(chan struct{}, 1), flush: make(chan chan struct{})}
}

func (p *Page) run(t *terminal) {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	var last frame
	var waits chan struct{} // whoever flushes
	lastWhole := time.Now()
	for {
		now := time.Now()
		if t.damaged() || now.Sub(lastWhole) >= anew {
			last, lastWhole = nil, now
		}
		width, height := t.size()
		next := layout(compose(p.texts, p.at(now)), width, height)
		if b := draw(last, next); len(b) > 0 {
			t.write(b)
		}
		last = next
		if waits != nil {
			close(waits)
			waits = nil
		}
		select {
		case <-p.changed:
		case <-ticks.C:
		case waits = <-p.flush:
		}
	}
}

// at is the state at a time.
func (p *Page) at(now time.Time) State {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.state
	if s.Scene == Running {
		s.Step, s.Rehearsal, s.Fraction, s.Minutes = p.meter.step, p.meter.rehearsal, p.meter.fraction(), p.meter.left(now)
	}
	return s
}

// change changes the state and has it drawn.
func (p *Page) change(how func()) {
	if p == nil {
		return
	}
	p.mu.Lock()
	how()
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Note takes in what a run does. After the run has ended nothing of it changes the page.
func (p *Page) Note(e report.Event) {
	p.change(func() {
		if e.Run != "" {
			p.state.Run = e.Run
		}
		if p.state.Scene != Running {
			return
		}
		if e.Rehearsal != p.meter.rehearsal && e.Run != "" {
			p.meter.reckon(func() { p.meter.rehearsal = e.Rehearsal })
		}
		if step, ok := stepOf(e.Stage); ok {
			p.meter.enter(step)
		}
		if e.Work != nil {
			p.meter.reckon(func() { p.meter.work = *e.Work })
		}
		if e.Count != nil {
			p.meter.count(*e.Count)
		}
	})
}

// PowerCut says what a power cut does from now on.
func (p *Page) PowerCut(c Cut) { p.change(func() { p.state.Cut = c }) }

// Again says that the write begins once more.
func (p *Page) Again() {
	p.change(func() { p.state.Scene, p.state.Again = Running, true; p.meter.startAt(Write) })
}

// End shows how the run has ended. Of message, the error if there was one, only the
// first line is shown.
func (p *Page) End(s Scene, message string) {
	message, _, _ = strings.Cut(message, "\n")
	p.change(func() { p.state.Scene, p.state.Message = s, message })
}

// Flush waits until the page is drawn, but not long: a reboot follows.
func (p *Page) Flush() {
	if p == nil {
		return
	}
	done := make(chan struct{})
	timeout := time.After(tick)
	select {
	case p.flush <- done:
	case <-timeout:
		return
	}
	select {
	case <-done:
	case <-timeout:
	}
}
