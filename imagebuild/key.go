package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"aead.dev/minisign"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"reimager/cli"
	"reimager/image"
	"reimager/report"
)

func keygenCommand() *cobra.Command {
	var output, passwordFile string
	var noPassword bool
	c := &cobra.Command{
		Use:   "keygen -o NAME",
		Short: "Make a key to sign releases with",
		Long: `Makes NAME.key, the secret key that signs releases, and NAME.pub, which is baked
into initrds with imagebuild initrd --key. Both are minisign's: its own minisign -S -H
and minisign -V take them.

Make two, and bake both public keys: one signs, the other is a spare that is kept
offline. A fleet that trusts one key only is lost with it.`,
		Example: `  imagebuild keygen -o fleet
  imagebuild keygen -o spare      # and put spare.key into a safe`,
		RunE: func(c *cobra.Command, _ []string) error {
			if output == "" {
				return cli.Usagef("--output is missing; see %s --help", c.CommandPath())
			}
			if noPassword && passwordFile != "" {
				return cli.Usagef("--no-password and --password-file exclude each other")
			}
			password := ""
			if !noPassword {
				var err error
				if password, err = newPassword(passwordFile); err != nil {
					return err
				}
			}
			return keygen(output, password, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVarP(&output, "output", "o", "", "the name of the key's two files, without .key and .pub")
	f.StringVar(&passwordFile, "password-file", "", "a file whose first line is the password (default: ask)")
	f.BoolVar(&noPassword, "no-password", false, "do not encrypt the secret key")
	return c
}

func keygen(name, password string, out io.Writer) error {
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	var secret []byte
	if password == "" {
		secret, err = private.MarshalText()
	} else {
		secret, err = minisign.EncryptKey(password, private)
	}
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	text, err := public.MarshalText()
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	if err := writeNew(name+".key", withNewline(secret), 0o600); err != nil {
		return err
	}
	if err := writeNew(name+".pub", withNewline(text), 0o644); err != nil {
		return errors.Join(err, os.Remove(name+".key"))
	}
	fmt.Fprintf(out, "key %016X: %s.key signs, %s.pub is for imagebuild initrd --key\n", public.ID(), name, name)
	return nil
}

// withNewline ends a text as minisign's own files do.
func withNewline(text []byte) []byte { return append(bytes.TrimRight(text, "\n"), '\n') }

// writeNew writes a file that was not there: a key is never overwritten.
func writeNew(name string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write key %s: %w", name, err)
	}
	return nil
}

// secretKey signs.
type secretKey struct{ key minisign.PrivateKey }

// readSecretKey reads a secret key, for which it may ask the password.
func readSecretKey(name, passwordFile string) (*secretKey, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read secret key: %w", err)
	}
	text = bytes.TrimSpace(text)
	var s secretKey
	if !minisign.IsEncrypted(text) {
		if err := s.key.UnmarshalText(text); err != nil {
			return nil, report.Hint(fmt.Errorf("read secret key %s: %w", name, err), "expected a .key of imagebuild keygen, or of minisign -G")
		}
		return &s, nil
	}
	password, err := oldPassword(passwordFile)
	if err != nil {
		return nil, err
	}
	if s.key, err = minisign.DecryptKey(password, text); err != nil {
		return nil, fmt.Errorf("read secret key %s: the password does not fit, or the file is damaged: %w", name, err)
	}
	return &s, nil
}

func (s *secretKey) sign(m *image.Manifest, text []byte) ([]byte, error) {
	r := minisign.NewReader(bytes.NewReader(text))
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, fmt.Errorf("sign manifest: %w", err)
	}
	trusted := strings.Map(func(c rune) rune {
		if c < ' ' {
			return ' '
		}
		return c
	}, fmt.Sprintf("reimager release %s counter %d", m, m.Counter))
	return r.SignWithComments(s.key, trusted, fmt.Sprintf("signature from reimager key %016X", s.key.ID())), nil
}

func oldPassword(file string) (string, error) {
	if file != "" {
		return firstLine(file)
	}
	return ask("password of the secret key: ")
}

// newPassword asks twice.
func newPassword(file string) (string, error) {
	if file != "" {
		password, err := firstLine(file)
		if err == nil && password == "" {
			err = fmt.Errorf("read password: the first line of %s is empty", file)
		}
		return password, err
	}
	password, err := ask("new password: ")
	if err != nil {
		return "", err
	}
	again, err := ask("once more: ")
	switch {
	case err != nil:
		return "", err
	case password == "":
		return "", errors.New("read password: it is empty; a key without one is made with --no-password")
	case password != again:
		return "", errors.New("read password: the two are not the same; no key was made")
	}
	return password, nil
}

func firstLine(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

func ask(prompt string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", report.Hint(errors.New("read password: there is no terminal to ask on"), "use --password-file")
	}
	defer tty.Close()
	fmt.Fprint(tty, prompt)
	text, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return string(text), nil
}
