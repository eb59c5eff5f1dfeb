package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"reimager/cli"
)

// sample writes a raw image of n bytes, and the same as gzip, into a folder.
func sample(t *testing.T, n int) (raw []byte, compressed string) {
	t.Helper()
	raw = make([]byte, n)
	chacha := rand.NewChaCha8([32]byte{1})
	_, _ = chacha.Read(raw[:n/3])
	raw[510], raw[511] = 0x55, 0xaa
	name := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gzip", "-k", name).CombinedOutput(); err != nil {
		t.Fatalf("gzip: %v\n%s", err, out)
	}
	return raw, name + ".gz"
}

func call(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(args, &out, &errs)
	return status, out.String(), errs.String()
}

func targetFile(t *testing.T, n int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, n); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestWrite(t *testing.T) {
	raw, compressed := sample(t, 9<<20)
	for _, flags := range [][]string{{"--json"}, {"--json", "--verify=false"}, {"--json", "--prove"}, {"--json", "--unmapped=zero"}} {
		target := targetFile(t, 10<<20)
		status, out, errs := call(append([]string{"write", compressed, target, "--yes"}, flags...)...)
		if status != cli.Done {
			t.Fatalf("%q: status %d\n%s", flags, status, errs)
		}
		got, err := os.ReadFile(target)
		if err != nil || !bytes.Equal(got[:len(raw)], raw) || len(got) != 10<<20 {
			t.Errorf("%q: the target has %d bytes, %v; want those of the image in front", flags, len(got), err)
		}
		var result written
		if err := json.Unmarshal([]byte(out), &result); err != nil {
			t.Fatalf("%q: %v\n%s", flags, err, out)
		}
		if result.Format != "gzip" || result.ImageBytes != int64(len(raw)) || result.ReadBack != (flags[len(flags)-1] != "--verify=false") {
			t.Errorf("%q: %+v", flags, result)
		}
	}
}

// Nothing is written, and nothing created, when something is wrong beforehand.
func TestWriteRefuses(t *testing.T) {
	_, compressed := sample(t, 1<<20)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no image"), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "sdx")
	wrong := hex.EncodeToString(make([]byte, 32))
	for _, tt := range []struct {
		name   string
		args   []string // "TARGET" is a fresh one
		status int
		want   string
	}{
		{"not confirmed", []string{compressed, "TARGET"}, cli.Usage, "give --yes"},
		{"no target", []string{compressed, missing, "--yes"}, cli.Failed, "nothing is created"},
		{"character device", []string{compressed, "/dev/null", "--yes"}, cli.Failed, "neither a block device nor a file"},
		{"no image", []string{text, "TARGET", "--yes"}, cli.Failed, "is this the image of a whole disk?"},
		{"no such image", []string{text + "2", "TARGET", "--yes"}, cli.Failed, "no such file"},
		{"no release", []string{filepath.Dir(text), "TARGET", "--yes"}, cli.Failed, "there is no manifest.json in it"},
		{"no signature", []string{compressed, "TARGET", "--yes", "--key", text}, cli.Failed, "parse key"},
		{"unmapped", []string{compressed, "TARGET", "--unmapped", "wipe"}, cli.Usage, "expected leave, discard or zero"},
		{"keep", []string{compressed, "TARGET", "--yes", "--keep", "5"}, cli.Usage, "OFFSET+BYTES"},
		{"kept sector 0", []string{compressed, "TARGET", "--yes", "--keep", "0+512"}, cli.Failed, "must not be touched"},
		{"digest", []string{compressed, "TARGET", "--yes", "--sha256", "12"}, cli.Usage, "expected 64"},
		{"wrong digest", []string{compressed, "TARGET", "--yes", "--sha256", wrong}, cli.Failed, "nothing was written"},
		{"proof", []string{compressed, "TARGET", "--yes", "--prove", "--sha256", wrong}, cli.Failed, "nothing was written"},
	} {
		target := targetFile(t, 2<<20)
		old := bytes.Repeat([]byte("old"), 2<<20/3)
		if err := os.WriteFile(target, old, 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"write"}
		for _, a := range tt.args {
			args = append(args, strings.Replace(a, "TARGET", target, 1))
		}
		status, _, errs := call(args...)
		if status != tt.status || !strings.Contains(errs, tt.want) {
			t.Errorf("%s: status %d, %q; want %d with %q", tt.name, status, errs, tt.status, tt.want)
		}
		if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, old) {
			t.Errorf("%s: the target was changed, %v", tt.name, err)
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("a file was created where a device was meant")
	}
	// An image cannot be written over itself.
	if status, _, errs := call("write", compressed, compressed, "--yes"); status != cli.Failed || !strings.Contains(errs, "the image itself") {
		t.Errorf("over itself: status %d, %q", status, errs)
	}
	// A raw image tells its size.
	if status, _, errs := call("write", strings.TrimSuffix(compressed, ".gz"), targetFile(t, 512<<10), "--yes"); status != cli.Failed || !strings.Contains(errs, "it has 524288 bytes") || strings.Contains(errs, "does not boot") {
		t.Errorf("raw, too small: status %d, %q", status, errs)
	}
	// Too small is found before the last byte, whatever the image says of itself.
	small := targetFile(t, 512<<10)
	if status, _, errs := call("write", compressed, small, "--yes"); status != cli.Failed || !strings.Contains(errs, "it has 524288 bytes") {
		t.Errorf("too small: status %d, %q", status, errs)
	}
	if info, err := os.Stat(small); err != nil || info.Size() != 512<<10 {
		t.Errorf("too small: the target grew: %v, %v", info, err)
	}
}

func TestCat(t *testing.T) {
	raw, compressed := sample(t, 5<<20+512)
	status, out, errs := call("cat", compressed)
	if status != cli.Done || out != string(raw) {
		t.Errorf("cat: status %d, %d bytes, %s", status, len(out), errs)
	}
	packed, err := os.ReadFile(compressed)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(packed)
	if status, _, errs := call("cat", compressed, "--sha256", hex.EncodeToString(sum[:])); status != cli.Done {
		t.Errorf("cat with its digest: status %d, %s", status, errs)
	}
	if status, _, errs := call("cat", compressed, "--sha256", hex.EncodeToString(make([]byte, 32))); status != cli.Failed || !strings.Contains(errs, "expected 0000") {
		t.Errorf("cat with another digest: status %d, %s", status, errs)
	}
	if err := os.WriteFile(compressed, packed[:len(packed)-20], 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := call("cat", compressed); status != cli.Failed || !strings.Contains(errs, "byte") {
		t.Errorf("cat of a truncated image: status %d, %s; want an error at an offset", status, errs)
	}
}

// Zeros become holes only where the file ends, and everything is there all the same.
func TestCatIntoFiles(t *testing.T) {
	raw, compressed := sample(t, 8<<20)
	name := filepath.Join(t.TempDir(), "out")
	for _, flags := range []int{os.O_CREATE | os.O_TRUNC | os.O_WRONLY, os.O_WRONLY, os.O_WRONLY | os.O_APPEND} {
		f, err := os.OpenFile(name, flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		before, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		var errs bytes.Buffer
		if status := run([]string{"cat", compressed}, f, &errs); status != cli.Done {
			t.Fatalf("status %d, %s", status, &errs)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if flags&os.O_APPEND != 0 {
			got = got[before.Size():]
		}
		if !bytes.Equal(got, raw) {
			t.Errorf("flags %#x: another image", flags)
		}
		for i := range got { // what the next must overwrite
			got[i] = 0xee
		}
		if err := os.WriteFile(name, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
