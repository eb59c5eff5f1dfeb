package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// The report file is preallocated on the old system by `reimager arm`, and its
// blocks are overwritten in place by init after a failed run. Each block begins
// with a line that says whose it is, so that init can prove before it writes that
// a block of the disk is the block of this file that it takes it for:
//
//	reimager-report 1 RUNID INDEX STATE LENGTH\n
//
// STATE is "empty", "filled", or of the first block alone "begun": a run marks it so
// before it does anything else. LENGTH is how many bytes of the block behind the line
// count. The text of all blocks together is JSON: {"record": …, "log": "…"}; that of a
// block that is begun alone is a record.
const (
	// FileBlockBytes is the size of a block: that of ext4 and XFS by default, so
	// that one never spans two extents.
	FileBlockBytes = 4096
	// FileBytes is the size of the file that arm makes.
	FileBytes = 256 << 10
	fileMagic = "reimager-report 1"
)

// FileState says how far a run has come with its report file.
type FileState string

// The states of a report file, which are those of its first block.
const (
	FileEmpty  FileState = "empty"
	FileBegun  FileState = "begun"
	FileFilled FileState = "filled"
)

// LastRun is what a report file tells.
type LastRun struct {
	Record Record `json:"record"`
	Log    string `json:"log"`
}

func blockLine(runID string, index int, state FileState, length int) string {
	return fmt.Sprintf("%s %s %04d %s %04d\n", fileMagic, runID, index, state, length)
}

func block(runID string, index int, state FileState, text []byte) []byte {
	b := make([]byte, FileBlockBytes)
	n := copy(b, blockLine(runID, index, state, len(text)))
	copy(b[n:], text)
	return b
}

// EmptyFile returns the content of a report file of n bytes before its run.
func EmptyFile(runID string, n int64) []byte {
	var all []byte
	for i := range int(n / FileBlockBytes) {
		all = append(all, block(runID, i, FileEmpty, nil)...)
	}
	return all
}

// IsFileBlock tells whether b is block index of the report file of a run.
func IsFileBlock(runID string, index int, b []byte) bool {
	_, ok := stateOf(runID, index, b)
	return ok
}

func stateOf(runID string, index int, b []byte) (FileState, bool) {
	for _, state := range []FileState{FileEmpty, FileBegun, FileFilled} {
		prefix, _, _ := strings.Cut(blockLine(runID, index, state, 0), string(state))
		if bytes.HasPrefix(b, []byte(prefix+string(state)+" ")) {
			return state, true
		}
	}
	return "", false
}

// FileStateOf reads the state of a run's report file off its first block. A block that
// is not that of this run is an error.
func FileStateOf(runID string, first []byte) (FileState, error) {
	if state, ok := stateOf(runID, 0, first); ok {
		return state, nil
	}
	line, _, _ := bytes.Cut(first[:min(len(first), 120)], []byte("\n"))
	return "", fmt.Errorf("read report: it begins with %q, expected run %s", line, runID)
}

// BegunBlock returns the first block of the report file of a run that has begun. What
// it says stays there if the run ends without a word: the power was cut, the machine
// was reset, the report could not be written.
func BegunBlock(runID, version string, begun time.Time) ([]byte, error) {
	text, err := json.Marshal(&Record{Format: RecordFormat, RunID: runID, Version: version, Started: begun, Outcome: "failed",
		Error: fmt.Sprintf("a run began at %s and left no report", begun.UTC().Format(time.RFC3339)),
		Hints: []string{"the power was cut, the machine was reset, or the report could not be written; this system was not changed"}})
	if err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	if room := FileBlockBytes - len(blockLine(runID, 0, FileBegun, 0)); len(text) > room {
		return nil, fmt.Errorf("encode report: %d bytes, the first block has room for %d", len(text), room)
	}
	return block(runID, 0, FileBegun, text), nil
}

// FileBlocks returns the blocks of a report file of n bytes that hold a record
// and as much of the end of the log as fits.
func FileBlocks(runID string, n int64, record *Record, log []byte) ([][]byte, error) {
	room := FileBlockBytes - len(blockLine(runID, 0, FileFilled, 0))
	count := int(n / FileBlockBytes)
	var text []byte
	all := log
	for {
		var err error
		if text, err = json.Marshal(LastRun{*record, string(log)}); err != nil {
			return nil, fmt.Errorf("encode report: %w", err)
		}
		if len(text) <= count*room {
			break
		}
		if notes := len(record.Warnings) + len(record.NotThere); len(log) == 0 && notes > 1 {
			short := *record
			short.Warnings, short.NotThere = []string{fmt.Sprintf("the report had no room for %d warnings and missing paths", notes)}, nil
			record, log = &short, all
			continue
		}
		if len(log) == 0 {
			return nil, fmt.Errorf("encode report: %d bytes, the file has room for %d", len(text), count*room)
		}
		// Escapes make the text longer than the log, so a few turns may be needed.
		log = log[min(len(log), len(text)-count*room):]
	}
	var blocks [][]byte
	for i := range count {
		piece := text[:min(room, len(text))]
		text = text[len(piece):]
		blocks = append(blocks, block(runID, i, FileFilled, piece))
	}
	return blocks, nil
}

// ErrNoReport says that no run has filled a report file.
var ErrNoReport = errors.New("no run has left a report")

// ReadFile reads a report file.
func ReadFile(name string) (*LastRun, error) {
	all, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	return ParseFile(name, all)
}

// ParseFile reads the content of a report file. A run that has begun and left no report
// is one that failed and says so. name is used in errors.
func ParseFile(name string, all []byte) (*LastRun, error) {
	var text []byte
	for i := 0; len(all) >= FileBlockBytes; i, all = i+1, all[FileBlockBytes:] {
		line, rest, ok := bytes.Cut(all[:FileBlockBytes], []byte("\n"))
		var format, index, length int
		var id, state string
		if _, err := fmt.Sscanf(string(line), "reimager-report %d %s %d %s %d", &format, &id, &index, &state, &length); !ok || err != nil {
			return nil, fmt.Errorf("read report %s: block %d does not begin as one", name, i)
		}
		if format != 1 || index != i || length < 0 || length > len(rest) {
			return nil, fmt.Errorf("read report %s: block %d says that it is block %d of format %d with %d bytes", name, i, index, format, length)
		}
		if i == 0 && FileState(state) == FileBegun {
			last := &LastRun{}
			if err := json.Unmarshal(rest[:length], &last.Record); err != nil {
				return nil, fmt.Errorf("read report %s: %w", name, err)
			}
			return last, nil
		}
		if FileState(state) != FileFilled {
			return nil, ErrNoReport
		}
		text = append(text, rest[:length]...)
	}
	last := &LastRun{}
	if err := json.Unmarshal(text, last); err != nil {
		return nil, fmt.Errorf("read report %s: %w", name, err)
	}
	return last, nil
}

// WriteFile writes a file beneath a root and syncs it. One that cannot be written whole
// is not left there.
func WriteFile(root *os.Root, name string, content []byte, mode os.FileMode) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), root.Remove(name))
	}
	return nil
}
