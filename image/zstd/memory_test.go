package zstd

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// childFile names the file that the test's own binary decodes as a process of its own.
const childFile = "ZSTD_TEST_CHILD_FILE"

func TestMain(m *testing.M) {
	if name := os.Getenv(childFile); name != "" {
		if err := decodeInChild(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// decodeInChild decodes a file with two workers and prints what this process has
// had in memory at most.
func decodeInChild(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := NewReader(f, Options{Workers: 2})
	for err == nil {
		_, err = r.Next()
	}
	if err != io.EOF {
		return err
	}
	if err := r.Close(); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM:") {
			fmt.Print(line)
			return nil
		}
	}
	return fmt.Errorf("no VmHWM in /proc/self/status")
}

// peak returns the resident memory, in bytes, that decoding a file takes at most.
func peak(t *testing.T, file []byte) int64 {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.zst")
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childFile+"="+name, "GOMAXPROCS=2")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("decode in a child: %v: %s", err, out)
	}
	var kilobytes int64
	if _, err := fmt.Sscanf(string(out), "VmHWM: %d kB", &kilobytes); err != nil {
		t.Fatalf("child said %q: %v", out, err)
	}
	return kilobytes << 10
}

func TestMemory(t *testing.T) {
	part := prose(1, 16<<20)
	small := tool(t, part, "zstd", "-3", "--zstd=wlog=23")
	// What a header claims costs nothing, and content that is one byte over and over
	// has no more room than any other.
	bomb := bytes.Repeat(encode(testFrame{content: defaultSmall, window: 23, blocks: rle(0, defaultSmall)}), 300)
	for _, tt := range []struct {
		name string
		file []byte
		most int64 // MiB
	}{
		{"many frames of 16 MiB", bytes.Repeat(small, 12), 76},
		{"one large frame", tool(t, bytes.Repeat(part, 3), "zstd", "-1", "--zstd=wlog=23"), 40},
		{"frames of 16 MiB in a few bytes", bomb, 76},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := peak(t, tt.file) >> 20
			t.Logf("%d MiB", got)
			if got > tt.most {
				t.Errorf("%d MiB; want at most %d", got, tt.most)
			}
		})
	}
}
