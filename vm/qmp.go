package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// monitor speaks QMP, QEMU's machine protocol (docs/interop/qmp-spec in
// QEMU's sources), over one connection.
type monitor struct {
	conn    net.Conn
	calls   sync.Mutex      // one command at a time
	replies chan qmpMessage // holds the one answer that may be outstanding
	closed  chan struct{}   // closed when QEMU has said its last word

	mu     sync.Mutex
	events []Event
}

// Event is something that QEMU reported about the guest, like RESET or
// SHUTDOWN.
type Event struct {
	Name string
	Data map[string]any
}

type qmpMessage struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string         `json:"event"`
	Data  map[string]any `json:"data"`
}

func dialMonitor(ctx context.Context, conn net.Conn) (*monitor, error) {
	m := &monitor{conn: conn, replies: make(chan qmpMessage, 1), closed: make(chan struct{})}
	go m.read()
	greeting, err := m.await(ctx)
	if err == nil && greeting.Greeting == nil {
		err = errors.New("no QMP greeting")
	}
	if err == nil {
		_, err = m.call(ctx, "qmp_capabilities", nil)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to QEMU's monitor: %w", err)
	}
	return m, nil
}

func (m *monitor) read() {
	defer close(m.closed)
	defer close(m.replies)
	defer m.conn.Close() // QEMU is gone
	lines := bufio.NewReader(m.conn)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var msg qmpMessage
		if json.Unmarshal(line, &msg) != nil {
			return
		}
		if msg.Event == "" {
			m.replies <- msg
			continue
		}
		m.mu.Lock()
		m.events = append(m.events, Event{msg.Event, msg.Data})
		m.mu.Unlock()
	}
}

func (m *monitor) await(ctx context.Context) (qmpMessage, error) {
	select {
	case msg, ok := <-m.replies:
		if !ok {
			return msg, errors.New("QEMU closed the connection")
		}
		return msg, nil
	case <-ctx.Done():
		// The answer would be taken for the next command's.
		return qmpMessage{}, errors.Join(context.Cause(ctx), m.conn.Close())
	}
}

func (m *monitor) call(ctx context.Context, name string, args map[string]any) (json.RawMessage, error) {
	m.calls.Lock()
	defer m.calls.Unlock()
	request := map[string]any{"execute": name}
	if args != nil {
		request["arguments"] = args
	}
	text, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	if _, err := m.conn.Write(append(text, '\n')); err != nil {
		return nil, fmt.Errorf("send QMP command %s: %w", name, err)
	}
	msg, err := m.await(ctx)
	if err != nil {
		return nil, fmt.Errorf("await answer to QMP command %s: %w", name, err)
	}
	if msg.Error != nil {
		return nil, fmt.Errorf("run QMP command %s: %s", name, msg.Error.Desc)
	}
	return msg.Return, nil
}

// QMP runs a command of QEMU's monitor and returns its answer.
func (vm *VM) QMP(ctx context.Context, command string, args map[string]any) (json.RawMessage, error) {
	return vm.monitor.call(ctx, command, args)
}

// HMP runs a command of the monitor for humans and returns what it prints.
func (vm *VM) HMP(ctx context.Context, command string) (string, error) {
	answer, err := vm.QMP(ctx, "human-monitor-command", map[string]any{"command-line": command})
	if err != nil {
		return "", err
	}
	var text string
	if err := json.Unmarshal(answer, &text); err != nil {
		return "", fmt.Errorf("run HMP command %q: %w", command, err)
	}
	return text, nil
}

// Events returns what QEMU has reported so far.
func (vm *VM) Events() []Event {
	vm.monitor.mu.Lock()
	defer vm.monitor.mu.Unlock()
	return append([]Event(nil), vm.monitor.events...)
}

// ExitReason waits for QEMU's end and tells why the guest ended, by QEMU's
// names: "guest-shutdown", "guest-reset" (under NoReboot), "host-qmp-quit";
// "" for a killed VM.
func (vm *VM) ExitReason() string {
	<-vm.exited
	<-vm.monitor.closed
	reason := ""
	for _, e := range vm.Events() {
		if e.Name == "SHUTDOWN" {
			reason, _ = e.Data["reason"].(string)
		}
	}
	return reason
}

// Quit ends QEMU in good order (the guest notices nothing) and waits for it.
func (vm *VM) Quit(ctx context.Context) error {
	_, err := vm.QMP(ctx, "quit", nil)
	select {
	case <-vm.exited:
		// QEMU may be gone before its answer to quit is read.
		return vm.Wait()
	default:
	}
	if err != nil {
		return err
	}
	return vm.WaitExit(ctx)
}
