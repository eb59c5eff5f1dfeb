package main

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		n    int
		want []occurrence
	}{
		{0, nil},
		{1, []occurrence{{1, false}, {1, true}}},
		{2, []occurrence{{1, false}, {1, true}, {2, false}}},
		{6, []occurrence{{1, false}, {1, true}, {6, false}, {3, false}, {2, false}, {4, false}, {5, false}}},
	} {
		if diff := cmp.Diff(tt.want, order(tt.n), cmp.AllowUnexported(occurrence{})); diff != "" {
			t.Errorf("order(%d) (-want +got):\n%s", tt.n, diff)
		}
	}
	// Each call once, whatever their number.
	for n := 1; n < 300; n++ {
		seen := map[occurrence]bool{}
		for _, o := range order(n) {
			if seen[o] || o.nth < 1 || o.nth > n {
				t.Fatalf("order(%d) has %+v twice, or beyond", n, o)
			}
			seen[o] = true
		}
		if len(seen) != n+1 {
			t.Errorf("order(%d) has %d, want %d", n, len(seen), n+1)
		}
	}
}

func TestTable(t *testing.T) {
	counts := map[place]int{{"gather", "mount"}: 3, {"gather", "openat"}: 100, {"write", "ioctl(BLKZEROOUT)"}: 1, {"write", "gettid"}: 9, {"land", "syscall999"}: 1}
	all, err := table(counts, 10000)
	if err != nil {
		t.Fatal(err)
	}
	if want := 4 + 101 + 2 + 10 + 2; len(all) != want {
		t.Errorf("table has %d faults; want %d", len(all), want)
	}
	few, err := table(counts, 6)
	if err != nil {
		t.Fatal(err)
	}
	if len(few) != 6 {
		t.Errorf("table of 6 has %d faults", len(few))
	}
	stages, onwards := map[string]bool{}, false
	for _, f := range few {
		stages[f.stage], onwards = true, onwards || f.onwards
		if slices.Contains(runtimeCalls(), f.call) {
			t.Errorf("table of 6 has %s, which only the runtime calls", f)
		}
	}
	if len(stages) != 3 || !onwards {
		t.Errorf("table of 6 covers the stages %v; want all three, and a call that fails for good", stages)
	}
	again, err := table(counts, 6)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(few, again, cmp.AllowUnexported(fault{}, place{})); diff != "" {
		t.Errorf("the same counts give another table (-first +second):\n%s", diff)
	}
}

func TestParseFault(t *testing.T) {
	all, err := table(map[place]int{{"read-back", "ioctl(BLKSSZGET)"}: 9, {"wake", "socket"}: 2}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range all {
		got, err := parseFault(want.String())
		if err != nil || got != want {
			t.Errorf("parseFault(%q) = %+v, %v; want %+v", want, got, err, want)
		}
	}
	for _, text := range []string{"", "gather/openat/1", "gather/openat/0/EIO", "gather/openat/x/EIO", "gather/openat/1/EWHAT"} {
		if f, err := parseFault(text); err == nil {
			t.Errorf("parseFault(%q) = %+v; want an error", text, f)
		}
	}
}

func TestStrikes(t *testing.T) {
	p := place{"write", "pwrite64"}
	for _, tt := range []struct {
		nth     int
		onwards bool
		n       int
		at      place
		want    bool
	}{
		{2, false, 1, p, false}, {2, false, 2, p, true}, {2, false, 3, p, false},
		{2, true, 1, p, false}, {2, true, 2, p, true}, {2, true, 3, p, true},
		{2, true, 3, place{"land", "pwrite64"}, false}, {2, true, 3, place{"write", "pread64"}, false},
	} {
		f := fault{p, tt.nth, tt.onwards, unix.EIO}
		if got := f.strikes(tt.at, tt.n); got != tt.want {
			t.Errorf("%s strikes call %d at %v: %v; want %v", f, tt.n, tt.at, got, tt.want)
		}
	}
}

// The filter is run as the kernel does: a load, equal-jumps, returns.
func TestFilter(t *testing.T) {
	for _, tt := range []struct {
		name string
		t    trapped
		want map[int32]uint32
	}{
		{"listed ones stop", forFaults(unix.SYS_OPENAT), map[int32]uint32{
			unix.SYS_OPENAT: unix.SECCOMP_RET_USER_NOTIF, unix.SYS_REBOOT: unix.SECCOMP_RET_USER_NOTIF, unix.SYS_READ: unix.SECCOMP_RET_ALLOW}},
		{"others stop", forCount(), map[int32]uint32{
			unix.SYS_OPENAT: unix.SECCOMP_RET_USER_NOTIF, unix.SYS_REBOOT: unix.SECCOMP_RET_USER_NOTIF, unix.SYS_EXIT_GROUP: unix.SECCOMP_RET_ALLOW}},
	} {
		program, err := tt.t.filter()
		if err != nil {
			t.Fatal(err)
		}
		for nr, want := range tt.want {
			at := 1
			for program[at].Code&0x07 == unix.BPF_JMP {
				step := program[at].Jf
				if program[at].K == uint32(nr) {
					step = program[at].Jt
				}
				at += 1 + int(step)
			}
			if got := program[at].K; got != want {
				t.Errorf("%s: call %d gives %#x; want %#x", tt.name, nr, got, want)
			}
		}
	}
}

func TestJudgeHold(t *testing.T) {
	disk := func(sector0 byte, rest byte) []byte {
		b := make([]byte, 2*blockBytes)
		b[0], b[blockBytes] = sector0, rest
		return b
	}
	v := victim{old: disk('o', 'o'), new: disk('n', 'n'), holding: disk('h', 0)[:512]}
	for _, tt := range []struct {
		name string
		now  []byte
		ok   bool
	}{
		{"holding code, half written", disk('h', 'x'), true},
		{"the old system, whole", disk('o', 'o'), true},
		{"the old system's sector, half written", disk('o', 'x'), false},
		{"the new system's sector, half written", disk('n', 'x'), false},
		{"something else", disk('x', 'n'), false},
	} {
		v.now = tt.now
		var got verdict
		judgeHold(&got, &v)
		if ok := len(got.wrong) == 0; ok != tt.ok {
			t.Errorf("%s: %v; want ok %v", tt.name, got.wrong, tt.ok)
		}
	}
}
