package stages

import (
	"bytes"
	"strings"
	"testing"

	"reimager/image"
	"reimager/lifeboat"
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

func TestCheckCopies(t *testing.T) {
	h := lifeboat.Header{Sections: []lifeboat.Section{{Name: lifeboat.Kernel}, {Name: lifeboat.Kernel2}, {Name: lifeboat.Initrd}, {Name: lifeboat.Initrd2}}}
	if err := checkCopies(h); err != nil {
		t.Errorf("checkCopies of the same = %v", err)
	}
	h.Sections[3].SHA256 = image.Digest{1}
	if err := checkCopies(h); err == nil || !strings.Contains(err.Error(), "board initrd: it was read twice") {
		t.Errorf("checkCopies of others = %v", err)
	}
}
