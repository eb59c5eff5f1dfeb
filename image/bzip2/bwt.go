package bzip2

import "iter"

const (
	marked  = 1 << 31 // in a column entry: a segment begins here
	rowMask = 1<<20 - 1

	walkers   = 32
	marks     = 1024
	quantum   = 64  // steps between looks at the space that walkers have left
	slots     = 496 // ≥ maxText/(slotSize-quantum) + walkers
	slotsSize = 1 << 20

	// slotSize is what a walker takes at a time, in bytes. It is not a multiple
	// of 4 KiB or a divisor, or else the lines that the walkers write to would
	// all fall into the same few sets of the first-level cache.
	slotSize = 2048 + 64
)

// inverseBWT walks the LF mapping from the origin, which yields the text from
// its last byte to its first. Each step waits for memory, so rows all over the
// permutation are marked, and many walkers go from mark to mark at once; the
// segments are then joined by copying.
type inverseBWT struct {
	out     *[slotsSize]byte
	text    []byte
	starts  [marks + 1]start
	pieces  [marks + 1 + slots]piece
	nPieces int
	nSlots  int
}

// start is a marked row; the origin's is the first.
type start struct {
	entry uint32 // of the column, before it was marked
	first int32  // the first piece of the segment
	next  int32  // the start at which the segment ended
}

// piece is a part of a segment that lies together, out[low:high]; it was
// written downwards.
type piece struct {
	low, high int32
	next      int32 // or -1
}

// party is the walkers on their way. In step k of a quantum walker i goes to
// rows[i] and writes to places[i]-k: that way a step changes nothing but the row.
type party struct {
	rows   [walkers]uint32
	places [walkers]uint32
	lows   [walkers]uint32 // lowest place of the slot
	pieces [walkers]int32  // the piece being written
	starts [walkers]int32  // the segment it belongs to
}

// decode returns the text that column, the LF mapping of finish, has from
// origin, a row of it. The text is valid until the next call; column is spoilt.
func (t *inverseBWT) decode(column *[1 << 20]uint32, n int, origin uint32) []byte {
	if t.out == nil {
		t.out = new([slotsSize]byte)
		t.text = make([]byte, maxText)
	}
	t.nPieces, t.nSlots = 0, 0
	starts := t.mark(column, n, origin)
	t.walk(column, starts)
	return t.join(n)
}

// mark sets up the starts and returns their number: the entry of a marked row is replaced by the mark
// and the number of its start.
func (t *inverseBWT) mark(column *[1 << 20]uint32, n int, origin uint32) int {
	t.starts[0] = start{entry: column[origin]}
	column[origin] = marked
	count := 1
	step := max(1, n/marks)
	for row := 0; row < n && count < len(t.starts); row += step {
		if e := column[row]; e&marked == 0 {
			t.starts[count] = start{entry: e}
			column[row] = marked | uint32(count)
			count++
		}
	}
	return count
}

// walk follows all segments to their ends.
func (t *inverseBWT) walk(column *[1 << 20]uint32, starts int) {
	var p party
	active, next := 0, 0
	for active < walkers && next < starts {
		t.newSlot(&p, active)
		t.begin(&p, active, next, 0)
		active++
		next++
	}
	for active > 0 {
		for step := range uint32(quantum) {
			for i := 0; ; i++ {
				i += advance(column, t.out, p.rows[i:active], p.places[i:active], step)
				if i == active {
					break
				}
				t.endPiece(&p, i, step)
				t.starts[p.starts[i]].next = int32(column[p.rows[i]] &^ marked)
				if next < starts {
					t.begin(&p, i, next, step)
					p.places[i]++ // what it wrote is this step's byte
					next++
					continue
				}
				active--
				p.move(i, active)
				i--
			}
		}
		for i := range active {
			p.places[i] -= quantum
			if p.places[i] < p.lows[i]+quantum {
				last := p.pieces[i]
				t.endPiece(&p, i, 0)
				t.newSlot(&p, i)
				t.beginPiece(&p, i, 0)
				t.pieces[last].next = p.pieces[i]
			}
		}
	}
}

// advance lets walkers go a step, up to the first that is at a mark, whose index
// it returns, or the number of walkers. It is not inlined because the compiler
// then has registers for all that it needs.
//
//go:noinline
func advance(column *[1 << 20]uint32, out *[slotsSize]byte, rows, places []uint32, step uint32) int {
	i := 0
	for ; i+4 <= len(rows) && i+4 <= len(places); i += 4 {
		four, to := rows[i:i+4:i+4], places[i:i+4:i+4]
		e0, e1 := column[four[0]&rowMask], column[four[1]&rowMask]
		e2, e3 := column[four[2]&rowMask], column[four[3]&rowMask]
		if (e0|e1|e2|e3)&marked != 0 {
			break
		}
		out[(to[0]-step)%slotsSize] = byte(e0)
		out[(to[1]-step)%slotsSize] = byte(e1)
		out[(to[2]-step)%slotsSize] = byte(e2)
		out[(to[3]-step)%slotsSize] = byte(e3)
		four[0], four[1], four[2], four[3] = e0>>8, e1>>8, e2>>8, e3>>8
	}
	for ; i < len(rows) && i < len(places); i++ {
		e := column[rows[i]&rowMask]
		if e&marked != 0 {
			return i
		}
		out[(places[i]-step)%slotsSize] = byte(e)
		rows[i] = e >> 8
	}
	return i
}

// move puts walker from in the place of walker to.
func (p *party) move(to, from int) {
	p.rows[to] = p.rows[from]
	p.places[to] = p.places[from]
	p.lows[to] = p.lows[from]
	p.pieces[to] = p.pieces[from]
	p.starts[to] = p.starts[from]
}

// newSlot gives walker i space to write to.
func (t *inverseBWT) newSlot(p *party, i int) {
	p.lows[i] = uint32(t.nSlots * slotSize)
	p.places[i] = p.lows[i] + slotSize - 1
	t.nSlots++
}

// begin sends walker i on the segment of a start. Its first byte is that of the
// marked row itself.
func (t *inverseBWT) begin(p *party, i, number int, step uint32) {
	t.beginPiece(p, i, step)
	p.starts[i] = int32(number)
	start := &t.starts[number]
	start.first = p.pieces[i]
	t.out[(p.places[i]-step)%slotsSize] = byte(start.entry)
	p.places[i]--
	p.rows[i] = start.entry >> 8
}

func (t *inverseBWT) beginPiece(p *party, i int, step uint32) {
	p.pieces[i] = int32(t.nPieces)
	t.pieces[t.nPieces] = piece{high: int32(p.places[i]-step) + 1, next: -1}
	t.nPieces++
}

func (t *inverseBWT) endPiece(p *party, i int, step uint32) {
	t.pieces[p.pieces[i]].low = int32(p.places[i]-step) + 1
}

// join copies the segments from the origin on to where they belong. A text that
// repeats itself has several cycles, and the origin's is one period of it; in a
// corrupt block the last repetition may be cut short, as in libbzip2.
func (t *inverseBWT) join(n int) []byte {
	text := t.text[:n]
	period := 0
	for p := range t.fromOrigin() {
		period += len(p)
	}
	at := period
	for p := range t.fromOrigin() {
		at -= len(p)
		copy(text[at:], p)
	}
	for filled := period; filled < n; filled *= 2 {
		copy(text[filled:], text[:filled])
	}
	return text
}

// fromOrigin yields the pieces of the origin's cycle, from the end of the text
// to its beginning.
func (t *inverseBWT) fromOrigin() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		number := int32(0)
		for {
			for i := t.starts[number].first; i >= 0; i = t.pieces[i].next {
				if !yield(t.out[t.pieces[i].low:t.pieces[i].high]) {
					return
				}
			}
			if number = t.starts[number].next; number == 0 {
				return
			}
		}
	}
}
