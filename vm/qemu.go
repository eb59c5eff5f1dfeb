// Package vm is a virtual machine: a QEMU process with disks, its serial console,
// its screen, and QMP. It needs no root, and never outlives the program that
// started it.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Bus is how a disk is attached, and so what it is called in the guest.
type Bus string

// The buses; the first AHCI or USB disk is /dev/sda.
const (
	AHCI   Bus = "ahci" // the default
	USB    Bus = "usb"
	NVMe   Bus = "nvme"
	VirtIO Bus = "virtio"
)

// Drive is a disk of a VM. Its file is always raw: QEMU protects sector 0 of
// images whose format it had to guess.
type Drive struct {
	Path     string
	Bus      Bus
	Serial   string // "": VMn, n counting from 0
	ReadOnly bool
	// Snapshot throws away what the guest writes when QEMU ends.
	Snapshot bool
	// Blockdev replaces Path: the JSON arguments of -blockdev, the last with
	// the node name driveN, N being the drive's index.
	Blockdev []string
	// Device is appended to the -device argument, as in ",bootindex=1".
	Device string
}

// Config describes a VM.
type Config struct {
	Drives    []Drive
	MemoryMiB int // 0: 1024
	CPUs      int // 0: 2
	// Kernel, Initrd and Append boot without the disk's boot loader.
	Kernel, Initrd, Append string
	// NoReboot ends QEMU when the guest resets, so that the disk can be
	// looked at before it boots again.
	NoReboot bool
	// UEFI is the firmware; nil: a BIOS.
	UEFI *UEFI
	// Accel is "kvm" or "tcg", as Accelerator finds.
	Accel string
	// Extra are further arguments of QEMU.
	Extra []string
	// Console gets all that the guest writes to its serial port, as it comes.
	Console io.Writer
	// Log gets a few words about the VM, first of all the command that
	// reproduces it; testing.T's Logf fits. nil: nowhere.
	Log func(format string, args ...any)
}

// VM is a running QEMU. It dies with the program that started it.
type VM struct {
	Console *Console

	command string
	cmd     *exec.Cmd
	monitor *monitor
	stderr  bytes.Buffer
	stdin   io.WriteCloser
	log     func(format string, args ...any)

	exited  chan struct{}
	exitErr error // valid once exited is closed
}

// Start starts a VM. When ctx ends, the VM is killed.
func Start(ctx context.Context, config Config) (*VM, error) {
	args, err := config.args()
	if err != nil {
		return nil, fmt.Errorf("start VM: %w", err)
	}
	qemu, err := FindProgram("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	vm := &VM{
		command: quoteCommand(append([]string{"qemu-system-x86_64"}, args...)),
		exited:  make(chan struct{}),
		log:     config.Log,
	}
	if vm.log == nil {
		vm.log = func(string, ...any) {}
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("start VM: %w", err)
	}
	// The descriptor is the first of ExtraFiles; it is no part of the command
	// that reproduces the VM.
	args = append(args, "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control")
	vm.cmd = exec.CommandContext(ctx, qemu, args...)
	vm.cmd.ExtraFiles = []*os.File{theirs}
	vm.cmd.Stderr = &vm.stderr
	vm.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = vm.launch(config.Console)
	err = errors.Join(err, theirs.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start VM: %w\n%s", err, vm.command), ours.Close())
	}
	vm.log("%s", vm.command)
	vm.monitor, err = dialMonitor(ctx, ours)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start VM: %w\n%s", err, vm.command), ours.Close(), vm.Kill(), vm.Wait())
	}
	return vm, nil
}

// launch starts QEMU and waits for its end in the background.
func (vm *VM) launch(tee io.Writer) error {
	// Our own pipe: cmd.Wait closes that of StdoutPipe before all is read.
	serial, serialWriter, err := os.Pipe()
	if err != nil {
		return err
	}
	vm.cmd.Stdout = serialWriter
	if vm.stdin, err = vm.cmd.StdinPipe(); err != nil {
		return errors.Join(err, serial.Close(), serialWriter.Close())
	}
	started := make(chan error)
	vm.Console = newConsole(serial, tee)
	go func() {
		// Pdeathsig fires when the *thread* that forked ends (prctl(2)), so
		// this one is kept until QEMU is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := errors.Join(vm.cmd.Start(), serialWriter.Close())
		started <- err
		if err != nil {
			return
		}
		err = vm.cmd.Wait()
		<-vm.Console.done
		vm.exitErr = err
		close(vm.exited)
	}()
	return <-started
}

func (c Config) args() ([]string, error) {
	// All that QEMU can emulate but AVX2, which is slower emulated than what it replaces.
	accel, cpu := "tcg,thread=multi", "max,-avx2"
	switch c.Accel {
	case "kvm":
		accel, cpu = "kvm", "host"
	case "tcg":
	default:
		return nil, fmt.Errorf("unknown accelerator %q, want kvm or tcg", c.Accel)
	}
	memory, cpus := c.MemoryMiB, c.CPUs
	if memory == 0 {
		memory = 1024
	}
	if cpus == 0 {
		cpus = 2
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-machine", "pc", "-accel", accel, "-cpu", cpu,
		"-smp", strconv.Itoa(cpus), "-m", strconv.Itoa(memory),
		"-vga", "std", "-display", "none", "-serial", "stdio",
	}
	if c.NoReboot {
		args = append(args, "-no-reboot")
	}
	if c.UEFI != nil {
		args = append(args, c.UEFI.args()...)
	}
	attached := map[Bus]int{}
	for i, d := range c.Drives {
		more, err := d.args(i, attached)
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
	}
	for _, opt := range [][2]string{{"-kernel", c.Kernel}, {"-initrd", c.Initrd}, {"-append", c.Append}} {
		if opt[1] != "" {
			args = append(args, opt[0], opt[1])
		}
	}
	return append(args, c.Extra...), nil
}

func (d Drive) args(index int, attached map[Bus]int) ([]string, error) {
	node := "drive" + strconv.Itoa(index)
	var args []string
	if len(d.Blockdev) > 0 {
		for _, b := range d.Blockdev {
			args = append(args, "-blockdev", b)
		}
	} else {
		// cache=unsafe ignores the guest's flushes: a killed QEMU loses
		// nothing all the same, the host's page cache has it.
		drive := "if=none,id=" + node + ",format=raw,cache=unsafe,file=" + strings.ReplaceAll(d.Path, ",", ",,")
		if d.ReadOnly {
			drive += ",readonly=on"
		}
		if d.Snapshot {
			drive += ",snapshot=on"
		}
		args = append(args, "-drive", drive)
	}
	serial := d.Serial
	if serial == "" {
		serial = "VM" + strconv.Itoa(index)
	}
	device, controller := "", ""
	switch d.Bus {
	case AHCI, "":
		port := attached[AHCI]
		if port == 6 {
			return nil, errors.New("attach drive: an AHCI controller has six ports")
		}
		if port == 0 {
			controller = "ahci,id=ahci"
		}
		attached[AHCI]++
		device = "ide-hd,bus=ahci." + strconv.Itoa(port)
	case USB:
		device = "usb-storage"
		if attached[USB] == 0 {
			controller = "qemu-xhci,id=usb"
		}
		attached[USB]++
	case NVMe:
		device = "nvme"
	case VirtIO:
		device = "virtio-blk-pci"
	default:
		return nil, fmt.Errorf("attach drive: unknown bus %q", d.Bus)
	}
	if controller != "" {
		args = append(args, "-device", controller)
	}
	return append(args, "-device", device+",drive="+node+",serial="+strings.ReplaceAll(serial, ",", ",,")+d.Device), nil
}

// Wait returns when QEMU has ended: the guest powered off, reset under
// NoReboot, or Kill or Quit was called.
func (vm *VM) Wait() error {
	<-vm.exited
	if vm.exitErr == nil {
		return nil
	}
	var status *exec.ExitError
	if errors.As(vm.exitErr, &status) && status.ProcessState.Sys().(syscall.WaitStatus).Signal() == unix.SIGKILL {
		return nil // Kill, or the end of the context
	}
	return fmt.Errorf("run QEMU: %w\n%s\n%s", vm.exitErr, strings.TrimSpace(vm.stderr.String()), vm.command)
}

// Exited is closed when QEMU has ended.
func (vm *VM) Exited() <-chan struct{} { return vm.exited }

// WaitExit is Wait with a limit; the error shows the console's last lines.
func (vm *VM) WaitExit(ctx context.Context) error {
	select {
	case <-vm.exited:
		return vm.Wait()
	case <-ctx.Done():
		return vm.explain(fmt.Errorf("wait for the VM's end: %w", context.Cause(ctx)))
	}
}

// Kill ends QEMU at once, as a power cut does. It may be called again.
func (vm *VM) Kill() error {
	err := vm.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("kill QEMU: %w", err)
	}
	<-vm.exited
	return nil
}

// explain adds what one needs to know to understand a failure.
func (vm *VM) explain(err error) error {
	return fmt.Errorf("%w\nlast lines of the console:\n%s\nthe VM: %s", err, vm.Console.Last(40), vm.command)
}

func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("create socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "qmp"), os.NewFile(uintptr(fds[1]), "qmp-guest")
	conn, err := net.FileConn(ours)
	err = errors.Join(err, ours.Close())
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}
