package wake

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParameter(t *testing.T) {
	for _, tt := range []struct{ cmdline, key, want string }{
		{"quiet reimager.job=UUID=a-b:/x panic=10\n", "reimager.job", "UUID=a-b:/x"},
		{"a=1 a=2", "a", "2"},
		{"xa=1", "a", ""},
		{"a", "a", ""},
	} {
		if got := parameter(tt.cmdline, tt.key); got != tt.want {
			t.Errorf("parameter(%q, %q) = %q; want %q", tt.cmdline, tt.key, got, tt.want)
		}
	}
}

func TestMountPoints(t *testing.T) {
	mountinfo := `21 1 0:20 / /run/reimager/old rw - ext4 /dev/sda2 ro
22 21 8:6 / /run/reimager/old/a\040b rw - ext4 /dev/sda6 ro
23 1 0:5 / /run/reimager/older rw - tmpfs tmpfs rw
broken
24 1 0:6 / /run rw - tmpfs tmpfs rw
`
	got := mountPoints(mountinfo, "/run/reimager/old")
	if diff := cmp.Diff([]string{"/run/reimager/old", "/run/reimager/old/a b"}, got); diff != "" {
		t.Errorf("mountPoints (-want +got):\n%s", diff)
	}
}

func TestModalias(t *testing.T) {
	for _, tt := range []struct{ message, want string }{
		{"add@/devices/pci0\x00ACTION=add\x00MODALIAS=pci:v8086\x00SEQNUM=1\x00", "pci:v8086"},
		{"remove@/devices/pci0\x00MODALIAS=pci:v8086\x00", ""},
		{"add@/devices/x\x00ACTION=add\x00", ""},
		{"", ""},
	} {
		if got := modalias([]byte(tt.message)); got != tt.want {
			t.Errorf("modalias(%q) = %q; want %q", tt.message, got, tt.want)
		}
	}
}

func TestAwait(t *testing.T) {
	u := &Uevents{changed: make(chan struct{}, 1)}
	looks := 0
	u.changed <- struct{}{}
	if err := u.Await(context.Background(), "disk", time.Minute, func() (bool, error) { looks++; return looks == 2, nil }); err != nil {
		t.Errorf("Await = %v; want nil", err)
	}
	err := u.Await(context.Background(), "disk serial=7", time.Nanosecond, func() (bool, error) { return false, errors.New("there are sda, sdb") })
	for _, want := range []string{"disk serial=7", "there are sda, sdb"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Await = %v; want an error with %q", err, want)
		}
	}
}
