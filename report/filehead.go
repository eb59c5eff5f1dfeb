package report

import (
	"bytes"
	"fmt"
	"os"
)

// FileHead reads of a report file's first block whose file it is and its state:
// "empty", "begun" (a run has begun and has not ended yet) or "filled". name is used
// in errors.
func FileHead(name string, all []byte) (runID, state string, err error) {
	line, _, _ := bytes.Cut(all[:min(len(all), FileBlockBytes)], []byte("\n"))
	var format, index, length int
	if _, err := fmt.Sscanf(string(line), "reimager-report %d %s %d %s %d", &format, &runID, &index, &state, &length); err != nil || format != 1 || index != 0 {
		return "", "", fmt.Errorf("read report %s: it does not begin as one", name)
	}
	return runID, state, nil
}

// Begun tells whether the report file is that of a run, and the run has begun or ended.
func Begun(name, runID string) bool {
	all, err := os.ReadFile(name)
	if err != nil {
		return false
	}
	id, state, err := FileHead(name, all)
	return err == nil && id == runID && FileState(state) != FileEmpty
}
