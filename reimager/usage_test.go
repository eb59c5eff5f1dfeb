package main

import (
	"bytes"
	"testing"

	"reimager/cli"
)

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"arm"}, {"arm", "a", "b"}, {"disarm", "x"}, {"check", "a", "b"}, {"hardware", "x"}, {"arm", ""}, {"check", ""}, {"arm", "--force", "x"}, {"arm", "--now", "x"}, {"nothing"}} {
		var out, errs bytes.Buffer
		if status := run(args, &out, &errs); status != cli.Usage || errs.Len() == 0 {
			t.Errorf("reimager %q = %d, %q; want %d and an error", args, status, &errs, cli.Usage)
		}
	}
	for _, args := range [][]string{{"--help"}, {"arm", "--help"}, {"check", "--help"}, {"hardware", "--help"}, {"--version"}, {"completion", "zsh"}} {
		var out, errs bytes.Buffer
		if status := run(args, &out, &errs); status != cli.Done || out.Len() == 0 {
			t.Errorf("reimager %q = %d; want help", args, status)
		}
	}
}
