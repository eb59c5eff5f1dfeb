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

func TestSameCopies(t *testing.T) {
	h := lifeboat.Header{Sections: []lifeboat.Section{{Name: lifeboat.Kernel}, {Name: lifeboat.Kernel2}, {Name: lifeboat.Initrd}, {Name: lifeboat.Initrd2}}}
	if err := sameCopies(h); err != nil {
		t.Errorf("sameCopies of the same = %v", err)
	}
	h.Sections[3].SHA256 = image.Digest{1}
	if err := sameCopies(h); err == nil || !strings.Contains(err.Error(), "board initrd: it was read twice") {
		t.Errorf("sameCopies of others = %v", err)
	}
}
