package send

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"reimager/config"
	"reimager/report"
)

// IdempotencyKey is the header that carries the run id: a server that has it has the
// record already (draft-ietf-httpapi-idempotency-key-header).
const IdempotencyKey = "Idempotency-Key"

// toURL posts the message. Any status of 200 to 299 means that the server has it.
func toURL(ctx context.Context, to config.Delivery, runID, version string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "reimager/"+version)
	request.Header.Set(IdempotencyKey, runID)
	if to.TokenFile != "" {
		token, err := readToken(to.TokenFile)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client, err := newClient(to.CAFile)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		// Not a refusal, even if the certificate is not valid yet: the clock of a
		// machine may be set right a while after its boot.
		return shownError{err}
	}
	// Only what may be shown is read; the connection is closed, not used again.
	said, _ := io.ReadAll(io.LimitReader(answer.Body, toldBytes))
	_ = answer.Body.Close() // the status is known
	return judge(answer, said)
}

// shownError is an error that may repeat what the other side has sent, such as an answer
// that is none.
type shownError struct{ error }

func (s shownError) Error() string { return told([]byte(s.error.Error())) }

func (s shownError) Unwrap() error { return s.error }

// judge tells what an answer means. What the server says reaches log, notes and terminals,
// so all of it is cut and made printable: the reason in the status line, too.
func judge(answer *http.Response, said []byte) error {
	if answer.StatusCode >= 200 && answer.StatusCode < 300 {
		return nil
	}
	text := answer.Status
	if said := told(said); said != "" {
		text += ": " + said
	}
	err := fmt.Errorf("the server answers %s", told([]byte(text)))
	switch code := answer.StatusCode; {
	case code >= 300 && code < 400:
		return refusedError{report.Hint(fmt.Errorf("%w, to %q", err, told([]byte(answer.Header.Get("Location")))), "redirects are not followed, the token might go astray: put the new address into [report] url")}
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return refusedError{report.Hint(err, "is the token in [report] token_file the right one?")}
	case code >= 400 && code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooEarly && code != http.StatusTooManyRequests:
		return refusedError{err}
	}
	if seconds, e := strconv.Atoi(answer.Header.Get("Retry-After")); e == nil && seconds > 0 && seconds < 1<<20 {
		return laterError{err, time.Duration(seconds) * time.Second}
	}
	return err
}

// readToken reads a bearer token; an error never shows it.
func readToken(name string) (string, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return "", report.Hint(fmt.Errorf("read token: %w", err), "does the retention list keep it?")
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", fmt.Errorf("read token %s: expected one line of ASCII without spaces", name)
	}
	return token, nil
}

func newClient(caFile string) (*http.Client, error) {
	security := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		text, err := os.ReadFile(caFile)
		if err != nil {
			return nil, report.Hint(fmt.Errorf("read CA certificates: %w", err), "does the retention list keep them?")
		}
		security.RootCAs = x509.NewCertPool()
		if !security.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("read CA certificates: %s has none in PEM", caFile)
		}
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: security, ForceAttemptHTTP2: true,
			MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
