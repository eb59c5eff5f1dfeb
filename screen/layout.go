package screen

import (
	"slices"

	"reimager/screen/texts"
)

// style is how a character looks.
type style byte

const (
	plain style = iota
	strong
	muted
	good
	warn
	track // of the bar
)

type cell struct {
	char  rune
	style style
}

// frame is a picture: rows of cells.
type frame [][]cell

func newFrame(width, height int) frame {
	f := make(frame, height)
	for y := range f {
		f[y] = slices.Repeat([]cell{{' ', plain}}, width)
	}
	return f
}

// put writes a text as far as it fits.
func (f frame) put(x, y int, s style, text string) {
	for _, r := range text {
		if y < 0 || y >= len(f) || x >= len(f[y]) {
			return
		}
		if x >= 0 {
			f[y][x] = cell{r, s}
		}
		x++
	}
}

// barPart is a piece of the bar, as the font has it; its colour says whether it is done.
const barPart = "▄"

const (
	maxText   = 68 // a longer line is hard to read
	usualRows = 14 // of a page; shorter ones begin where it does
	// messageRows bounds what is shown of an error: the log has all of it.
	messageRows = 4
)

// row is a line of a page before it is set.
type row struct {
	text  string
	right string // at the other end of the row
	style style
	bar   bool
	// spare is how easily the row is done without on a small terminal; 0: never.
	spare int
}

// layout sets a page for a terminal. On a small one it leaves out what matters least.
func layout(v view, width, height int) frame {
	f := newFrame(width, height)
	margin := 1
	if width >= 60 {
		margin = 4
	}
	text := max(1, min(maxText, width-2*margin))
	left := max(0, (width-text)/2)
	rows := v.rows(text)
	room := height
	if foot := v.foot + v.corner; foot != "" && height >= len(rows)+2 {
		room -= 2
		f.put(left, height-1, muted, show(v.foot))
		f.put(left+text-len([]rune(show(v.corner))), height-1, muted, show(v.corner))
	}
	for len(rows) > room {
		rows = leaveOut(rows)
	}
	top := max(0, (room-max(len(rows), min(usualRows, room)))/2)
	for i, r := range rows {
		if r.bar {
			f.bar(left, top+i, text, v.fraction)
			continue
		}
		f.put(left, top+i, r.style, r.text)
		f.put(left+text-len(r.right), top+i, plain, r.right)
	}
	return f
}

// rows are the lines of a page for a width.
func (v view) rows(width int) []row {
	var rows []row
	add := func(text string, s style, spare int) {
		for _, line := range wrap(show(text), width) {
			rows = append(rows, row{text: line, style: s, spare: spare})
		}
	}
	blank := func() {
		if len(rows) > 0 && rows[len(rows)-1].spare != blankSpare {
			rows = append(rows, row{spare: blankSpare})
		}
	}
	titleStyle := strong
	if v.alarm {
		titleStyle = warn
	}
	add(v.title, titleStyle, 0)
	blank()
	add(v.sentence, plain, 6)
	blank()
	if v.bar {
		lines := wrap(show(v.step), max(1, width-len(" 100%")))
		if len(lines) == 0 {
			lines = []string{""}
		}
		for _, line := range lines {
			rows = append(rows, row{text: line, style: strong})
		}
		rows[len(rows)-1].right = percent(v.fraction)
		rows = append(rows, row{bar: true}, row{spare: blankSpare})
		add(v.time, plain, 0)
	}
	blank()
	noticeStyle := good
	if v.warn {
		noticeStyle = warn
	}
	add(v.notice, noticeStyle, 0)
	add(v.why, plain, 4)
	blank()
	add(v.contact, plain, 2)
	blank()
	message := wrap(show(v.message), width)
	if len(message) > messageRows {
		message = append(message[:messageRows-1], "...")
	}
	for i, line := range message {
		rows = append(rows, row{text: line, style: muted, spare: 1 + min(i, 1)*4})
	}
	for len(rows) > 0 && rows[len(rows)-1].spare == blankSpare {
		rows = rows[:len(rows)-1]
	}
	return rows
}

const blankSpare = 9

// leaveOut takes away the row that is most easily done without.
func leaveOut(rows []row) []row {
	most := len(rows) - 1
	for i := len(rows) - 1; i >= 0; i-- {
		if rows[i].spare > rows[most].spare {
			most = i
		}
	}
	return slices.Delete(rows, most, most+1)
}

// bar draws how much is done.
func (f frame) bar(x, y, width int, fraction float64) {
	done := int(float64(width) * min(1, max(0, fraction)))
	for i := range width {
		if i < done {
			f.put(x+i, y, good, barPart)
		} else {
			f.put(x+i, y, track, barPart)
		}
	}
}

func show(text string) string {
	shown, _ := texts.Show(text)
	return shown
}
