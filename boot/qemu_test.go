package boot

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vm is a QEMU that boots one disk by its BIOS. It has no time limit of its own
// but the context's, which is there to end a hanging test.
type vm struct {
	t      *testing.T
	serial *bufio.Reader
	qmp    net.Conn
	events *json.Decoder
	seen   strings.Builder
}

func startVM(t *testing.T, disk string) *vm {
	t.Helper()
	// -no-reboot ends QEMU when the guest starts the machine again.
	return startMachine(t, "-no-reboot", "-drive", "file="+disk+",format=raw,snapshot=off")
}

func startMachine(t *testing.T, args ...string) *vm {
	t.Helper()
	qemu := needTool(t, "qemu-system-x86_64")
	socket := filepath.Join(t.TempDir(), "qmp")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	cmd := exec.CommandContext(ctx, qemu, append([]string{"-accel", "tcg", "-m", "64", "-nodefaults", "-vga", "std",
		"-display", "none", "-serial", "stdio",
		"-qmp", "unix:" + socket + ",server=on,wait=on"}, args...)...)
	t.Log("reproduce: " + strings.Join(cmd.Args, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed or has quit
	})
	m := &vm{t: t, serial: bufio.NewReader(out)}
	m.connect(ctx, socket)
	return m
}

// connect waits for QEMU's socket; with wait=on the machine starts only then.
func (m *vm) connect(ctx context.Context, socket string) {
	m.t.Helper()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			m.qmp, m.events = conn, json.NewDecoder(conn)
			m.t.Cleanup(func() { conn.Close() })
			break
		}
		select {
		case <-ctx.Done():
			m.t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	m.command("qmp_capabilities", nil)
}

// command runs a QMP command and returns what it returned.
func (m *vm) command(name string, arguments map[string]any) json.RawMessage {
	m.t.Helper()
	request := map[string]any{"execute": name}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(m.qmp).Encode(request); err != nil {
		m.t.Fatal(err)
	}
	for {
		var reply struct {
			Return json.RawMessage
			Error  json.RawMessage
		}
		if err := m.events.Decode(&reply); err != nil {
			m.t.Fatalf("%s: %v", name, err)
		}
		if reply.Error != nil {
			m.t.Fatalf("%s: %s", name, reply.Error)
		}
		if reply.Return != nil {
			return reply.Return
		}
	}
}

// waitSerial reads the serial port until it has said text.
func (m *vm) waitSerial(text string) {
	m.t.Helper()
	for !strings.Contains(m.seen.String(), text) {
		c, err := m.serial.ReadByte()
		if err != nil {
			m.t.Fatalf("serial port ended (%v) before %q: %q", err, text, m.seen.String())
		}
		m.seen.WriteByte(c)
	}
}

// quit ends QEMU and returns everything that the serial port has said.
func (m *vm) quit() string {
	m.t.Helper()
	m.command("quit", nil)
	rest, err := io.ReadAll(m.serial)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.seen.String() + string(rest)
}

// screen is the text of the VGA text mode, 80x25, without attributes.
func (m *vm) screen() string {
	m.t.Helper()
	file := filepath.Join(m.t.TempDir(), "vga")
	m.command("pmemsave", map[string]any{"val": 0xb8000, "size": 80 * 25 * 2, "filename": file})
	cells := []byte(readFile(m.t, file))
	var text strings.Builder
	for i := 0; i < len(cells); i += 2 {
		text.WriteByte(cells[i])
		if i%160 == 158 {
			text.WriteByte('\n')
		}
	}
	return text.String()
}

// registers is what QEMU's monitor shows of the processor.
func (m *vm) registers() string {
	m.t.Helper()
	var text string
	reply := m.command("human-monitor-command", map[string]any{"command-line": "info registers"})
	if err := json.Unmarshal(reply, &text); err != nil {
		m.t.Fatal(err)
	}
	return text
}

func TestHoldingCodeRuns(t *testing.T) {
	sector, err := HoldingSector(sector0(512))
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	writeFile(t, disk, string(sector)+strings.Repeat("\xff", 1<<20-512))
	m := startVM(t, disk)
	m.waitSerial(holdingMessage[strings.LastIndex(holdingMessage, "or call"):])

	screen := m.screen()
	for line := range strings.SplitSeq(strings.TrimSpace(holdingMessage), "\r\n") {
		if !strings.Contains(screen, line) {
			t.Errorf("screen lacks %q:\n%s", line, screen)
		}
	}
	// It comes to rest behind the hlt of its last loop; where it does not, the
	// time limit of the VM ends this.
	code, err := HoldingCode()
	if err != nil {
		t.Fatal(err)
	}
	halted := fmt.Sprintf("EIP=%08x", holdingOrigin+bytes.Index(code, []byte{0xf4, 0xeb, 0xfd})+1)
	for {
		state := m.registers()
		if strings.Contains(state, "HLT=1") && strings.Contains(state, halted) {
			break
		}
	}
	// -no-reboot would have ended QEMU; the message would come again after a
	// reset that it does not see.
	if got := m.quit(); strings.Count(got, "reimage interrupted") != 1 {
		t.Errorf("serial port said %q; want the message once", got)
	}
}
