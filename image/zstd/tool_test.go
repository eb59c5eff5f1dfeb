package zstd

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"testing"
)

// tool pipes content through a command, which has to be there.
func tool(t testing.TB, content []byte, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("the command %s is needed: %v", name, err)
	}
	cmd := exec.Command(name, append(args, "-q", "-c")...)
	cmd.Stdin = bytes.NewReader(content)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("run %s %q: %v: %s", name, args, err, stderr.Bytes())
	}
	return out.Bytes()
}

// prose returns n bytes that compress as text does.
func prose(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := make([]string, 500)
	for i := range words {
		word := make([]byte, 2+r.IntN(8))
		for k := range word {
			word[k] = 'a' + byte(r.IntN(26))
		}
		words[i] = string(word)
	}
	out := make([]byte, 0, n+16)
	for len(out) < n {
		out = append(out, words[min(r.IntN(500), r.IntN(500))]...)
		out = append(out, ' ')
	}
	return out[:n]
}

// noise returns n bytes that do not compress.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	return out
}
