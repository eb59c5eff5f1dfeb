package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// variantsFile is baked in by the test.
const variantsFile = "/faultboot/variants.json"

// variant is a machine with which something was wrong before it woke.
type variant struct {
	Name  string `json:"name"`
	Want  string `json:"want"` // in the error
	Mute  bool   `json:"mute"` // no report can be left
	Patch []struct {
		Off  int64  `json:"off"`
		Data []byte `json:"data"`
	} `json:"patch"` // of the disk
}

// spoiled tries every variant, or those whose names begin so.
func (v *victim) spoiled(out io.Writer, only string) error {
	text, err := os.ReadFile(variantsFile)
	if err != nil {
		return err
	}
	var all []variant
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	base, tried := v.old, 0
	for _, one := range all {
		if !strings.HasPrefix(one.Name, only) {
			continue
		}
		tried++
		v.old = bytes.Clone(base)
		for _, p := range one.Patch {
			copy(v.old[p.Off:], p.Data)
		}
		if err := v.spoil(out, one); err != nil {
			return fmt.Errorf("%s: %w", one.Name, err)
		}
	}
	fmt.Fprintf(out, "FAULTS %d to try\n", tried)
	return nil
}

func (v *victim) spoil(out io.Writer, one variant) error {
	if err := v.restore(); err != nil {
		return err
	}
	if err := v.look(); err != nil {
		return err
	}
	e, _, err := v.try(forFaults())
	if err != nil {
		return err
	}
	got := judge(e, one.Mute, v)
	if got.end != endBack {
		got.blame("the machine ends so: %s; want %s", got.end, endBack)
	}
	if !one.Mute {
		if last, err := lastRun(); err == nil && !strings.Contains(last.Record.Error, one.Want) {
			got.blame("the report says %q; want %q in it", last.Record.Error, one.Want)
		}
	}
	if !strings.Contains(e.log, one.Want) {
		got.blame("the log lacks %q", one.Want)
	}
	return v.tell(out, one.Name, e, got)
}
