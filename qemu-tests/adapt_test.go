package qemutests

import (
	"strings"
	"testing"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

// adaptConfig has everything that changes the new system beside the retained files.
const adaptConfig = `[trust]
signature = "if-present"
[retain]
selinux = "relabel"
[[rewrite]]
file = "/etc/hosts"
match = '^127\.0\.1\.1\s'
replace = "127.0.1.1 ${hostname}"
missing = "append"
[[hook]]
when = "before-restore"
run = ["/bin/sh", "-c", "cat /etc/machine-id; echo $REIMAGER_WHEN > /etc/hooked"]
[[hook]]
run = ["/bin/sh", "-c", "echo it is $(cat /etc/hostname); echo after >> /etc/hooked; (dd if=/dev/zero of=/dev/sda bs=512 count=1; mknod /tmp/disk b 8 0) && echo WROTE THE DISK; true"]
[[hook]]
run = ["/bin/sh", "-c", "sleep 1000"]
timeout = "2s"
[[hook]]
run = ["/no/such/program"]
`

// Sets, merged accounts, rewrites and hooks, in a machine: the new system is what they
// say, the boot sector is the image's, and what failed without being fatal is known.
func TestNewSystemIsAdapted(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	reimager, err := scenario.Program("reimager")
	must(t, err)
	network := "auto eth7\niface eth7 inet dhcp\n"
	k := build(t, scenario.Spec{
		Config: adaptConfig, Retain: "@identity\n@accounts\n/srv/one/same\n/srv/cashier\n",
		Old: func(o *lab.KioskSpec) {
			// A service that the new system does not have, with a number that it gave away.
			o.Users = append(o.Users, lab.User{Name: "cashier", Home: "/srv", Shell: "/bin/false", ID: o.Users[0].ID + 5000})
			cashier := lab.Text("srv/cashier", 0o640, "takings")
			cashier.UID, cashier.GID = o.Users[0].ID+5000, o.Users[0].ID+5000
			o.Root = append(o.Root, cashier, lab.Dir("etc/network", 0o755, 0, 0), lab.Text("etc/network/interfaces", 0o644, network))
		},
		New: func(n *lab.KioskSpec) {
			n.Root = append(n.Root, lab.Text("etc/hosts", 0o644, "127.0.0.1 localhost\n"), lab.File{Path: "usr/sbin/reimager", Mode: 0o755, Source: reimager})
			n.BootScript = "#!/bin/sh\nreimager status --verify && echo status: as it was\necho changed > /etc/machine-id\nreimager status --verify || echo status: no longer\n"
		},
	})
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}})
	for _, text := range []string{"state     done", "every file that was put back is as it was", "status: as it was", "differs   /etc/machine-id: content", "status: no longer", k.New.Done()} {
		wait(ctx, t, guest, text)
	}
	waitExit(ctx, t, guest)
	for path, want := range map[string]string{
		"/etc/hooked": "before-restore\nafter\n", "/etc/hosts": "127.0.0.1 localhost\n127.0.1.1 kiosk-0042\n",
		"/etc/network/interfaces": network, "/.autorelabel": "", "/srv/cashier": "takings",
	} {
		got, err := lab.ReadFile(ctx, k.Disk, lab.KioskRoot, path)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	passwd, err := lab.ReadFile(ctx, k.Disk, lab.KioskRoot, "/etc/passwd")
	must(t, err)
	if !strings.Contains(string(passwd), "\ncashier:x:") {
		t.Errorf("/etc/passwd lacks the old system's service:\n%s", passwd)
	}
	log, err := lab.ReadFile(ctx, k.Disk, lab.KioskRoot, "/var/log/reimager/reimager.log")
	must(t, err)
	for _, want := range []string{"hook     it is kiosk-0042", "killed after its timeout of 2s", "/no/such/program", "accounts ", "rewrite  /etc/hosts: 1 lines"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("reimager.log lacks %q:\n%s", want, log)
		}
	}
	if strings.Contains(string(log), "hook     WROTE THE DISK") {
		t.Error("a hook wrote to the whole disk")
	}
	record := recordOf(t, k.Disk, lab.KioskRoot, "/var/log/reimager/record.json")
	if record["outcome"] != "restored" || record["error"] != nil {
		t.Errorf("record: outcome %v, error %v", record["outcome"], record["error"])
	}
	if hooks := record["hooks"].([]any); len(hooks) != 4 {
		t.Errorf("record: %d hooks; want 4: %v", len(hooks), hooks)
	}
}

// A hook that may not fail keeps the machine from landing: it is tried again, and then
// it holds.
func TestFatalHookHolds(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := build(t, scenario.Spec{Config: scenario.PlainConfig + `[failure]
after_write = "hold"
[[hook]]
run = ["/bin/sh", "-c", "echo no; exit 3"]
on_failure = "fatal"
`})
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}})
	wait(ctx, t, guest, "cast off /dev/sda")
	wait(ctx, t, guest, "exit status 3")
	waitScreen(ctx, t, guest, "The new system is on the disk, but")
	if guest.Console.Contains(k.New.Banner()) {
		t.Error("the machine landed")
	}
}
