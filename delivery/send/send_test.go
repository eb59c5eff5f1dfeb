package send

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/delivery"
)

const body = `{"run_id":"RUN"}`

func settings(timeout time.Duration) config.Delivery {
	return config.Delivery{Timeout: config.Duration{Duration: timeout}, Retry: config.Duration{Duration: time.Minute}}
}

func once(t *testing.T, to config.Delivery) error {
	t.Helper()
	places := delivery.Places(to)
	if len(places) != 1 {
		t.Fatalf("%d places", len(places))
	}
	return Once(t.Context(), places[0], to, "RUN", "1.0", []byte(body))
}

// server is a TLS server and the settings that trust it.
func server(t *testing.T, handler http.HandlerFunc) config.Delivery {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A server notices that its client has gone only when the body is read.
		text, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(text))
		handler(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	dir := t.TempDir()
	to := settings(5 * time.Second)
	to.URL, to.CAFile, to.TokenFile = s.URL+"/report", filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := errors.Join(os.WriteFile(to.CAFile, ca, 0o600), os.WriteFile(to.TokenFile, []byte("sesame\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestURLIsPosted(t *testing.T) {
	var got []string
	to := server(t, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got = append(got, fmt.Sprintf("%s %s %s %s %s %s %s", r.Method, r.URL.Path, r.Header.Get("Content-Type"),
			r.Header.Get("Authorization"), r.Header.Get("Idempotency-Key"), r.Header.Get("User-Agent"), text))
		w.WriteHeader(http.StatusAccepted)
	})
	if err := once(t, to); err != nil {
		t.Fatal(err)
	}
	want := "POST /report application/json Bearer sesame RUN reimager/1.0 " + body
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		status  int
		refused bool
	}{
		{200, false}, {204, false}, {301, true}, {307, true}, {400, true}, {401, true}, {403, true}, {404, true}, {408, false},
		{409, true}, {425, false}, {429, false}, {500, false}, {503, false},
	} {
		t.Run(strconv.Itoa(c.status), func(t *testing.T) {
			asked := 0
			to := server(t, func(w http.ResponseWriter, r *http.Request) {
				asked++
				w.Header().Set("Location", "https://elsewhere.example/")
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(c.status)
			})
			err := once(t, to)
			if (err == nil) != (c.status < 300) || Refused(err) != c.refused || asked != 1 {
				t.Errorf("%v, refused %v, asked %d times; want refused %v, asked once", err, Refused(err), asked, c.refused)
			}
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), strconv.Itoa(c.status)) || strings.Contains(err.Error(), "sesame") {
				t.Errorf("error %q; want the status, and no token", err)
			}
			if want := 7 * time.Second; !c.refused && After(err) != want {
				t.Errorf("come again after %s; want %s", After(err), want)
			}
		})
	}
}

func TestURLFails(t *testing.T) {
	fine := func(w http.ResponseWriter, r *http.Request) {}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		change  func(*config.Delivery)
		want    string
	}{
		"slow": {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(d *config.Delivery) { d.Timeout.Duration = 200 * time.Millisecond }, "deadline exceeded"},
		"endless answer": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			for r.Context().Err() == nil {
				if _, err := w.Write([]byte(strings.Repeat("\x1b[2Jno ", 1000))); err != nil {
					return
				}
			}
		}, nil, "500 Internal Server Error: [2Jno"},
		"endless header":  {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, nil, "header"},
		"breaks off":      {func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, nil, "EOF"},
		"another CA":      {fine, func(d *config.Delivery) { d.CAFile = "" }, "certificate"},
		"no CA file":      {fine, func(d *config.Delivery) { d.CAFile = "/none" }, "read CA certificates"},
		"CA file is none": {fine, func(d *config.Delivery) { d.CAFile = d.TokenFile }, "has none in PEM"},
		"no token":        {fine, func(d *config.Delivery) { d.TokenFile = "/none" }, "read token"},
		"bad token":       {fine, func(d *config.Delivery) { d.TokenFile = d.CAFile }, "expected one line"},
		"nobody there":    {fine, func(d *config.Delivery) { d.URL = "https://127.0.0.1:1/" }, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			to := server(t, c.handler)
			if c.change != nil {
				c.change(&to)
			}
			begun := time.Now()
			err := once(t, to)
			if err == nil || !strings.Contains(err.Error(), c.want) || Refused(err) || len(err.Error()) > 2*toldBytes {
				t.Errorf("%v (refused %v); want %q, to be tried again", err, Refused(err), c.want)
			}
			if took := time.Since(begun); took > 4*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// A server that is not one of ours: what it says in the status line and in headers is
// shown without its control characters, and not all of it.
func TestRawAnswers(t *testing.T) {
	long := strings.Repeat("x", 10000)
	for name, c := range map[string]struct{ answer, want string }{
		"reason":     {"HTTP/1.1 500 \x1b[31mno\u202e\r\n\r\n\x1b[2Jwhy", "500  [31mno"},
		"long":       {"HTTP/1.1 500 " + long + "\r\n\r\nwhy", "500 xxx"},
		"location":   {"HTTP/1.1 301 no\r\nLocation: https://h/" + long + "\x9b\r\n\r\n", "https://h/xxx"},
		"not HTTP":   {"\x1b[31m" + long + "\r\n\r\n", "malformed HTTP"},
		"bad status": {"HTTP/1.1 \x1b[31m" + long + " no\r\n\r\n", "malformed HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			to := server(t, func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.WriteString(conn, c.answer)
				if err := errors.Join(err, conn.Close()); err != nil {
					t.Error(err)
				}
			})
			err := once(t, to)
			if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 3*toldBytes ||
				strings.ContainsFunc(err.Error(), func(c rune) bool { return !unicode.IsPrint(c) }) {
				t.Errorf("%q; want %q, printable and short", err, c.want)
			}
		})
	}
}

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	sh := func(script string) config.Delivery {
		to := settings(time.Second)
		to.Command = []string{"/bin/sh", "-c", script, "sh", dir}
		return to
	}
	for name, c := range map[string]struct {
		script, want string
	}{
		"reads it":         {`cat > "$1/got"`, ""},
		"does not read it": {`exit 0`, ""},
		"leaves a child":   {`sleep 2 & exit 0`, ""},
		"refuses":          {`echo "no $((1+1))" >&2; exit 3`, "exit status 3: no 2"},
		"dies":             {`kill -9 $$`, "signal: killed"},
		"talks a lot":      {`head -c 1000000 /dev/zero | tr '\0' x; exit 1`, "xxx"},
		"hangs":            {`echo hanging; (sleep 100; touch "$1/late") & echo $! > "$1/child"; sleep 100`, "killed after its timeout of 1s: hanging"},
	} {
		t.Run(name, func(t *testing.T) {
			err := once(t, sh(c.script))
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || len(err.Error()) > 2*toldBytes) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
	if got, err := os.ReadFile(filepath.Join(dir, "got")); err != nil || string(got) != body {
		t.Errorf("the command read %q, %v; want %q", got, err, body)
	}
	// The child of the command that hung was killed with it.
	text, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); alive(child); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d lives on", child)
		}
	}
	to := sh("")
	to.Command[0] = "/none"
	if err := once(t, to); err == nil {
		t.Error("a command that is not there has delivered")
	}
}

// alive tells whether a process runs; one that nobody has waited for does not.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ")
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	to := settings(time.Second)
	to.File = filepath.Join(dir, "report.json")
	if err := os.WriteFile(to.File, []byte("an older one"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := once(t, to); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to.File)
	info, _ := os.Stat(to.File)
	if err != nil || string(got) != body || info.Mode() != 0o600 {
		t.Errorf("%q, %v, mode %v; want %q with 0600", got, err, info.Mode(), body)
	}
	for name, file := range map[string]string{"no folder": dir + "/none/report.json", "a folder": dir, "below a file": to.File + "/x"} {
		to.File = file
		if err := once(t, to); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// A full filesystem keeps what was there, and nothing else.
func TestFileOnFullFilesystem(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("mounting a tmpfs needs root")
		}
		t.Skip("mounting a tmpfs needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	to := settings(time.Second)
	to.File = filepath.Join(dir, "report.json")
	if err := os.WriteFile(to.File, []byte("an older one"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Once(t.Context(), delivery.Places(to)[0], to, "RUN", "1.0", make([]byte, 64<<10))
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v; want %v", err, unix.ENOSPC)
	}
	got, err := os.ReadFile(to.File)
	names, _ := os.ReadDir(dir)
	if err != nil || string(got) != "an older one" || len(names) != 1 {
		t.Errorf("%q, %v, %v; want the older one alone", got, err, names)
	}
}

func TestPause(t *testing.T) {
	for _, c := range []struct {
		attempt   int
		low, high time.Duration
	}{{0, 2500 * time.Millisecond, 5 * time.Second}, {1, 5 * time.Second, 10 * time.Second}, {3, 20 * time.Second, 40 * time.Second}, {7, 5 * time.Minute, 10 * time.Minute}, {1 << 20, 5 * time.Minute, 10 * time.Minute}} {
		low, high := Pause(c.attempt, 5*time.Second, 10*time.Minute, 0), Pause(c.attempt, 5*time.Second, 10*time.Minute, 1)
		if low != c.low || high != c.high {
			t.Errorf("Pause(%d) = %s to %s; want %s to %s", c.attempt, low, high, c.low, c.high)
		}
	}
	if got := Pause(0, 5*time.Second, time.Second, 1); got != time.Second {
		t.Errorf("Pause beyond the longest = %s; want %s", got, time.Second)
	}
}

func TestRefusedTogether(t *testing.T) {
	no, down := refusedError{errors.New("no")}, errors.New("down")
	for _, c := range []struct {
		err  error
		want bool
	}{{no, true}, {down, false}, {fmt.Errorf("deliver: %w", no), true}, {errors.Join(no, no), true}, {errors.Join(no, down), false}} {
		if got := Refused(c.err); got != c.want {
			t.Errorf("Refused(%q) = %v; want %v", c.err, got, c.want)
		}
	}
}

func TestCancelledCommandIsNotATimeout(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	to := settings(time.Second)
	to.Command = []string{"/bin/sleep", "100"}
	err := Once(ctx, delivery.Places(to)[0], to, "RUN", "1.0", nil)
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want %v", err, context.Canceled)
	}
}
