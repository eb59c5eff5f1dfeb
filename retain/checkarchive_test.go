package retain

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestCheckArchive(t *testing.T) {
	root := rootOf(t, "/etc/hostname", "/srv/one/same")
	plan, err := planOf(t, root, "/etc/hostname\n/srv/\n")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	summary, err := Capture(context.Background(), plan, &archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	whole := archive.Bytes()
	if n, err := CheckArchive(bytes.NewReader(whole)); n != len(summary.Entries) || err != nil {
		t.Errorf("CheckArchive = %d, %v; want %d", n, err, len(summary.Entries))
	}
	if _, err := CheckArchive(bytes.NewReader(append(bytes.Clone(whole), make([]byte, 7*tarBlock)...))); err != nil {
		t.Errorf("with zeros behind: %v; want none, as tar fills up its records", err)
	}
	upwards := bytes.Replace(whole, []byte("etc/hostname"), []byte("../hostname\x00"), 1)
	for name, broken := range map[string][]byte{
		"empty":   nil,
		"cut":     whole[:len(whole)-2*tarBlock],
		"half":    whole[:len(whole)/2],
		"more":    append(bytes.Clone(whole), "more"...),
		"not tar": []byte(strings.Repeat("no tar ", 200)),
		"upwards": upwards,
		"flipped": append([]byte{whole[0] ^ 1}, whole[1:]...),
	} {
		if _, err := CheckArchive(bytes.NewReader(broken)); err == nil {
			t.Errorf("CheckArchive took an archive that is %s", name)
		}
	}
}
