package config

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-crypt/x/crypt"
	"golang.org/x/crypto/bcrypt"

	"reimager/report"
)

// PasswordHash is a hash as crypt(5) writes it: SHA-512 ($6$), SHA-256 ($5$) or bcrypt
// ($2b$, $2a$, $2y$). Its zero value stands for no password at all.
type PasswordHash string

// shaCrypt is crypt(5)'s form of SHA-crypt: 43 letters of SHA-256 or 86 of SHA-512.
var shaCrypt = regexp.MustCompile(`^\$([56])\$(?:rounds=([1-9][0-9]{3,8})\$)?([^$:\n]{0,16})\$([./0-9A-Za-z]+)$`)

// bcryptForm is crypt(5)'s: 22 letters of salt and 31 of the hash.
var bcryptForm = regexp.MustCompile(`^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}$`)

// shaRounds is how often SHA-crypt works by default: crypt(5).
const shaRounds = 5000

// Check refuses a hash that Matches could not judge.
func (p PasswordHash) Check() error {
	text := string(p)
	switch {
	case text == "":
		return nil
	case strings.HasPrefix(text, "$5$"), strings.HasPrefix(text, "$6$"):
		if _, _, err := p.sha(); err != nil {
			return err
		}
		return nil
	case strings.HasPrefix(text, "$2"):
		// Its form only: working one out takes as long as it is meant to.
		if _, err := bcrypt.Cost([]byte(text)); err != nil || !bcryptForm.MatchString(text) {
			return errors.New("malformed bcrypt hash")
		}
		return nil
	}
	kind := "no hash of crypt(5)"
	switch {
	case strings.HasPrefix(text, "$y$"):
		kind = "yescrypt, which is not supported"
	case strings.HasPrefix(text, "$"):
		kind = "a kind of hash that is not supported"
	}
	return report.Hint(errors.New(kind), "make one with: openssl passwd -6")
}

// sha takes a hash of SHA-crypt apart.
func (p PasswordHash) sha() (key func(password []byte) []byte, want []byte, err error) {
	m := shaCrypt.FindStringSubmatch(string(p))
	digest, letters := func() hash.Hash { return sha512.New() }, 86
	if m != nil && m[1] == "5" {
		digest, letters = func() hash.Hash { return sha256.New() }, 43
	}
	if m == nil || len(m[4]) != letters {
		return nil, nil, report.Hint(errors.New("malformed SHA-crypt hash"), "it has the form $6$SALT$HASH; was a part of it lost to the shell's $?")
	}
	rounds := shaRounds
	if m[2] != "" {
		if rounds, err = strconv.Atoi(m[2]); err != nil {
			return nil, nil, fmt.Errorf("rounds of SHA-crypt hash: %w", err)
		}
	}
	return func(password []byte) []byte { return crypt.KeySHACrypt(digest, password, []byte(m[3]), rounds) }, []byte(m[4]), nil
}

// Matches tells whether a password is the one. Without a hash none is.
func (p PasswordHash) Matches(password []byte) bool {
	if strings.HasPrefix(string(p), "$2") {
		return bcrypt.CompareHashAndPassword([]byte(p), password) == nil
	}
	key, want, err := p.sha()
	return err == nil && subtle.ConstantTimeCompare(key(password), want) == 1
}
