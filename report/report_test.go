package report

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestExplain(t *testing.T) {
	inner := Hint(errors.New("open x: no such file"), "put it there")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("plain"), "plain"},
		{fmt.Errorf("arm: %w", inner), "arm: open x: no such file\nhint: put it there"},
		{errors.Join(inner, Hint(errors.New("b"), "then %d", 2)), "open x: no such file\nb\nhint: put it there\nhint: then 2"},
		{Hint(inner, "outer"), "open x: no such file\nhint: outer\nhint: put it there"},
	} {
		if got := Explain(tt.err); got != tt.want {
			t.Errorf("Explain = %q; want %q", got, tt.want)
		}
	}
	if Hint(nil, "x") != nil {
		t.Error("Hint(nil) is an error")
	}
}

func TestReporter(t *testing.T) {
	var log, kmsg, serial bytes.Buffer
	r := New(&log, &kmsg, time.Now())
	r.AddSerial(&serial)
	var told []Event
	r.Watch(func(e Event) { told = append(told, e) })
	r.Stage("gather")
	r.SetRun("5f1c")
	r.Stage("read back")
	r.Milestone("outcome boot the old system (after gather)", "outcome", "boot the old system", "after", "gather")
	r.Detail("only in the log")
	r.Printf("a name with\x1b[31m escapes\nand a second line")
	r.Flush()
	for _, want := range []string{"== stage gather", "only in the log", "a name with?[31m escapes\n", "and a second line\n"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, &log)
		}
	}
	if s := serial.String(); strings.Contains(s, "only in the log") || !strings.Contains(s, "== stage gather\r\n") || strings.Contains(s, "\x1b") {
		t.Errorf("serial console:\n%q", s)
	}
	// docs/formats.md promises these lines.
	want := "<5>reimager: stage=gather run=-\n<5>reimager: stage=read-back run=5f1c\n<5>reimager: outcome=boot-the-old-system after=gather run=5f1c\n"
	if got := kmsg.String(); got != want {
		t.Errorf("kernel log: %q; want %q", got, want)
	}
	if diff := cmp.Diff([]Event{{Stage: "gather"}, {Stage: "read back"}}, told); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// A console whose other end stopped the flow must not stop the run.
func TestStuckConsole(t *testing.T) {
	r := New(io.Discard, nil, time.Now())
	stuck, writer := io.Pipe()
	defer stuck.Close()
	r.AddSerial(writer)
	done := make(chan struct{})
	go func() {
		for range 10 * queued {
			r.Printf("line")
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("Printf waits for a console that takes nothing")
	}
}

func TestProgressOnSerialIsWholeLines(t *testing.T) {
	var log, serial, screen bytes.Buffer
	r := New(&log, nil, time.Now())
	r.AddSerial(&serial)
	r.AddScreen(&screen)
	var told []Event
	r.Watch(func(e Event) { told = append(told, e) })
	p := r.Progress("write", 100<<20)
	p.start = p.start.Add(-20 * time.Second)
	p.lastLine = p.lastLine.Add(-20 * time.Second)
	p.Add(50 << 20)
	p.Add(1)
	p.Done()
	r.Flush()
	if got := serial.String(); !strings.Contains(got, "write     50% of 100.0 MiB, 2.5 MiB/s, 20s left\r\n") || !strings.Contains(got, "write    done: 50.0 MiB in 20") {
		t.Errorf("serial console:\n%q", got)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(serial.String(), "\r\n"), "\r\n") {
		if strings.Contains(line, "\r") {
			t.Errorf("a serial line is drawn over: %q", line)
		}
	}
	want := []Event{{Count: &Count{"write", 50 << 20, 100 << 20}}, {Count: &Count{"write", 50<<20 + 1, 100 << 20}}}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("events; want the first and the last (-want +got):\n%s", diff)
	}
	if !strings.Contains(screen.String(), "50%") {
		t.Errorf("the screen shows no progress: %q", screen.String())
	}
}

func TestReportFile(t *testing.T) {
	empty := EmptyFile("RUN", FileBytes)
	if len(empty) != FileBytes {
		t.Fatalf("EmptyFile has %d bytes; want %d", len(empty), FileBytes)
	}
	if _, err := ParseFile("f", empty); !errors.Is(err, ErrNoReport) {
		t.Errorf("ParseFile(empty) = %v; want ErrNoReport", err)
	}
	for i := range FileBytes / FileBlockBytes {
		b := empty[i*FileBlockBytes:][:FileBlockBytes]
		if !IsFileBlock("RUN", i, b) || IsFileBlock("RUN", i+1, b) || IsFileBlock("RUM", i, b) || IsFileBlock("RUN", i, make([]byte, FileBlockBytes)) {
			t.Fatalf("IsFileBlock is wrong about block %d", i)
		}
	}
	record := &Record{Format: RecordFormat, RunID: "RUN"}
	record.Fail(Hint(errors.New("no disk"), "look for it"))
	long := strings.Repeat("a line of the log with \"quotes\" and a \\\n", 20000) + "the end"
	for _, log := range []string{"", "short\n", long} {
		blocks, err := FileBlocks("RUN", FileBytes, record, []byte(log))
		if err != nil {
			t.Fatal(err)
		}
		var all []byte
		for i, b := range blocks {
			if !IsFileBlock("RUN", i, b) {
				t.Fatalf("filled block %d is not one of the file", i)
			}
			all = append(all, b...)
		}
		if len(all) != FileBytes {
			t.Fatalf("FileBlocks has %d bytes; want %d", len(all), FileBytes)
		}
		got, err := ParseFile("f", all)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(*record, got.Record); diff != "" || !strings.HasSuffix(log, got.Log) || len(log) > 0 && len(got.Log) == 0 {
			t.Errorf("ParseFile: log of %d bytes instead of %d, record (-want +got):\n%s", len(got.Log), len(log), diff)
		}
	}
}

// A record with more to say than the file has room for still says how the run ended.
func TestReportFileOfManyWarnings(t *testing.T) {
	record := &Record{Format: RecordFormat, RunID: "R", Outcome: "failed", Error: "the error"}
	for i := range 5000 {
		record.Warnings = append(record.Warnings, fmt.Sprintf("retained path /srv/%060d: a socket is not kept", i))
	}
	blocks, err := FileBlocks("R", FileBytes, record, []byte("the log\n"))
	if err != nil {
		t.Fatal(err)
	}
	last, err := ParseFile("report", slices.Concat(blocks...))
	if err != nil {
		t.Fatal(err)
	}
	if last.Record.Error != "the error" || len(last.Record.Warnings) != 1 || last.Log != "the log\n" || len(record.Warnings) != 5000 {
		t.Errorf("report: error %q, warnings %q, log %q", last.Record.Error, last.Record.Warnings, last.Log)
	}
}

func TestBegunFile(t *testing.T) {
	begun := time.Date(2025, 3, 4, 5, 6, 7, 0, time.UTC)
	first, err := BegunBlock("RUN", "v1", begun)
	if err != nil {
		t.Fatal(err)
	}
	all := append(first, EmptyFile("RUN", FileBytes)[FileBlockBytes:]...)
	if len(all) != FileBytes || !IsFileBlock("RUN", 0, first) {
		t.Fatalf("a file that has begun has %d bytes, its first block is one: %v", len(all), IsFileBlock("RUN", 0, first))
	}
	last, err := ParseFile("f", all)
	if err != nil {
		t.Fatal(err)
	}
	if r := last.Record; r.Outcome != "failed" || r.RunID != "RUN" || r.Error != "a run began at 2025-03-04T05:06:07Z and left no report" {
		t.Errorf("ParseFile(begun) = %+v; want a failed run that began then", r)
	}
	filled, err := FileBlocks("RUN", FileBytes, &Record{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		block []byte
		want  FileState
	}{{EmptyFile("RUN", FileBytes), FileEmpty}, {first, FileBegun}, {filled[0], FileFilled}, {EmptyFile("RUM", FileBytes), ""}, {nil, ""}, {make([]byte, FileBlockBytes), ""}} {
		if got, err := FileStateOf("RUN", tt.block); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("FileStateOf(%.40q) = %q, %v; want %q", tt.block, got, err, tt.want)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	blocks, err := FileBlocks("RUN", 2*FileBlockBytes, &Record{}, []byte("log"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(blocks[0], blocks[1]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if last, err := ParseFile("f", b); (last == nil) == (err == nil) {
			t.Errorf("ParseFile = %v, %v; want one of them", last, err)
		}
	})
}
