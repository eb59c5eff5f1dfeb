package qemutests

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/image"
	"reimager/prove"
	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
)

// A release that works is proven with it, by the layout of the first fleets, whose
// configuration names every device; and leaves nothing behind.
func TestProveRelease(t *testing.T) {
	t.Parallel()
	k := build(t, scenario.Spec{Pack: "zst", Config: strings.ReplaceAll(scenario.ClassicConfig, `disk = "/dev/sda"`, `disk = "serial=KIOSK0042"`)})
	temporary := t.TempDir()
	got, text, err := runProve(t, temporary, k.Release, "--key", filepath.Join(k.Dir, "fleet.pub"), "--expect", k.New.Banner())
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	var steps []string
	for _, s := range got.Steps {
		if s.Passed {
			steps = append(steps, s.Name)
		}
		t.Logf("%s: %.1f s, %s", s.Name, s.Seconds, s.Detail)
	}
	if diff := cmp.Diff([]string{"verified", "written", "read back", "restored", "booted"}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if got.Release != "kiosk 2.0" || got.SignedBy == "" || got.Warnings != nil {
		t.Errorf("result %+v; want the signed release kiosk 2.0 without warnings", got)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v; want nothing", left, err)
	}
}

// A release whose new system does not boot is told of, with the machine's last words.
func TestProveReleaseThatDoesNotBoot(t *testing.T) {
	t.Parallel()
	k := build(t, scenario.Spec{NoRetain: true, Pack: "zst", Config: "[new]\nlog_dir = \"off\"\n"})
	// INT 18h is how boot code gives up: the BIOS looks for another disk.
	f, err := os.OpenFile(k.NewRaw, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(append([]byte{0xcd, 0x18}, make([]byte, 438)...), 0)
	must(t, errors.Join(err, f.Close()))
	must(t, os.RemoveAll(k.Release))
	must(t, runImagebuild("pack", k.NewRaw, "-o", k.Release, "--kernel", k.Kernel.Image, "--initrd", k.Initrd, "--key", filepath.Join(k.Dir, "fleet.key")))
	output := filepath.Join(t.TempDir(), "output")
	got, text, err := runProve(t, t.TempDir(), k.Release, "--output", output)
	if err == nil || !strings.Contains(text, `imagebuild: boot the new system: it stopped with "Boot failed`) || !strings.Contains(text, "hint: the consoles' logs and the last screen, as far as it came, are in "+output) {
		t.Errorf("prove: %v, %s; want that nothing boots", err, text)
	}
	if last := got.Steps[len(got.Steps)-1]; last.Name != "booted" || last.Passed || len(got.Steps) != 5 {
		t.Errorf("steps %+v; want that only the last failed", got.Steps)
	}
	var left []string
	entries, err := os.ReadDir(output)
	must(t, err)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{"boot.log", "reimage.log", "screen.png"}, left); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// What is not verified does not boot.
func TestProveRefuses(t *testing.T) {
	t.Parallel()
	k := build(t, scenario.Spec{Pack: "zst"})
	for _, tc := range []struct {
		name  string
		spoil func(dir string)
		args  []string
		want  string
	}{
		{"kernel changed", func(dir string) { flip(t, filepath.Join(dir, "kernel")) }, nil, "kernel has the SHA-256"},
		{"image changed", func(dir string) { flip(t, filepath.Join(dir, "image.zst")) }, nil, "image.zst has the SHA-256"},
		{"signature removed", func(dir string) { must(t, os.Remove(filepath.Join(dir, image.ManifestName+image.SignatureSuffix))) },
			[]string{"--key", filepath.Join(k.Dir, "fleet.pub")}, "there is no signature"},
		{"no release", func(dir string) { must(t, os.Remove(filepath.Join(dir, image.ManifestName))) }, nil, "there is no manifest.json in it"},
		{"no size", func(string) {}, []string{"--disk-size", "8"}, "expected a size such as 512M or 8G"},
		{"disk too small", func(string) {}, []string{"--disk-size", "170M"}, "its disk would have 170 MiB"},
	} {
		dir := filepath.Join(t.TempDir(), "release")
		must(t, os.CopyFS(dir, os.DirFS(k.Release)))
		tc.spoil(dir)
		output := t.TempDir()
		_, text, err := runProve(t, t.TempDir(), dir, append(tc.args, "--output", output)...)
		if err == nil || !strings.Contains(text, tc.want) {
			t.Errorf("%s: %v, %s; want %q", tc.name, err, text, tc.want)
		}
		if _, err := os.Stat(filepath.Join(output, "reimage.log")); err == nil {
			t.Errorf("%s: it booted all the same", tc.name)
		}
	}
}

// flip changes one bit in the middle of a file.
func flip(t *testing.T, name string) {
	t.Helper()
	content, err := os.ReadFile(name)
	must(t, err)
	content[len(content)/2] ^= 1
	must(t, os.WriteFile(name, content, 0o644))
}

// runProve runs imagebuild prove --json and returns its result and its standard error.
func runProve(t *testing.T, temporary, dir string, args ...string) (prove.Result, string, error) {
	t.Helper()
	program, err := scenario.Program("imagebuild")
	must(t, err)
	accel, err := lab.Accelerator(t.Context())
	must(t, err)
	cmd := exec.CommandContext(t.Context(), program, append([]string{"prove", "--json", dir}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+temporary, "REIMAGER_ACCEL="+accel)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	var result prove.Result
	if out.Len() > 0 {
		must(t, json.Unmarshal(out.Bytes(), &result))
	}
	return result, said.String(), err
}

func runImagebuild(args ...string) error {
	program, err := scenario.Program("imagebuild")
	if err != nil {
		return err
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return errors.New(string(out))
	}
	return nil
}
