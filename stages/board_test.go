package stages

import (
	"bytes"
	"strings"
	"testing"
)

func TestCarriedLog(t *testing.T) {
	if got := carriedLog([]byte("a line\n")); got != "a line\n" {
		t.Errorf("carriedLog = %q", got)
	}
	got := carriedLog(bytes.Repeat([]byte("x"), maxLogAboard+3))
	if want := "x…\n(3 bytes more of the log of the first start were not carried aboard)\n"; !strings.HasSuffix(got, want) || len(got) > maxLogAboard+100 {
		t.Errorf("carriedLog of a long one ends with %q; want %q", got[max(0, len(got)-100):], want)
	}
}
