package config

import (
	"strings"
	"testing"
)

// The hashes were made by glibc's crypt(3) and libxcrypt.
const (
	hash512     = `$6$abcdefgh$b30zBOv4Unwaqb7BbhECJpqw0xyFL/Lwjvl8lMFzyvvaLtoL7s8/IKNAiXwB40Z2xPxhA9cIEkQ//khLCz2Wc1`
	hash256     = `$5$rounds=5000$saltsalt$q3mDH..P9ER5U7svTNVbu89XH4bthBmOJVUZKjESZC/`
	hash512Long = `$6$rounds=1000$0123456789abcdef$ZFJDx.2XwvsjUP7Oj3TWVxL2ADsEGRSAJ8bjnblub/H8LYzmvAfRFe1jXahk3uapUWtdH9A.LUCQc/hG33OlA.`
	hashBcrypt  = `$2b$05$abcdefghijklmnopqrstuuPwd6zxEwu7.h955iFyNIGMDe1LUTH5u`
	hashEmpty   = `$6$ab$xnh5Qsr2NdbFw1PgdZie7nLON3gv.S.23iQDBqAzkdoXPtDnVSpludXkM5UWybQO3OI7hBj9wHg9Ow6sUWD60/`
)

func TestPasswordMatches(t *testing.T) {
	long := strings.Repeat("x", 70)
	for _, tt := range []struct {
		hash     PasswordHash
		password string
		want     bool
	}{
		{hash512, "Hallo Welt", true}, {hash512, "hallo Welt", false}, {hash512, "", false}, {hash512, "Hallo Welt ", false},
		{hash256, "Hallo Welt", true}, {hash256, "Hallo", false},
		{hash512Long, long, true}, {hash512Long, long[1:], false},
		{hashBcrypt, "Hallo Welt", true}, {hashBcrypt, "Hallo Welt2", false},
		{hashEmpty, "", true}, {hashEmpty, "x", false},
		{"", "", false}, {"x", "x", false}, {"$6$abcdefgh$", "", false}, {PasswordHash(hash512[:50]), "Hallo Welt", false},
	} {
		if got := tt.hash.Matches([]byte(tt.password)); got != tt.want {
			t.Errorf("%q matches %q: %v; want %v", tt.hash, tt.password, got, tt.want)
		}
	}
}

func TestPasswordCheck(t *testing.T) {
	for _, tt := range []struct{ hash, want string }{
		{"", ""}, {hash512, ""}, {hash256, ""}, {hash512Long, ""}, {hashBcrypt, ""},
		{"$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7", "yescrypt, which is not supported"},
		{"$1$abc$def", "not supported"}, {"secret", "no hash of crypt(5)"}, {"*", "no hash"},
		{hash512[:60], "malformed"}, {hash512 + "x", "malformed"}, {"$6$abcdefgh$", "malformed"}, {"$5" + hash512[2:], "malformed"},
		{"$6$rounds=10$ab$" + hashEmpty[6:], "malformed"}, {hashBcrypt[:59], "malformed"}, {"$2b$99" + hashBcrypt[6:], "malformed"},
	} {
		err := PasswordHash(tt.hash).Check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Check(%q) = %v; want %q", tt.hash, err, tt.want)
		}
	}
	if _, err := Parse("f", []byte("[console]\npassword = \"$y$x\"\n")); err == nil || !strings.Contains(err.Error(), "console.password") {
		t.Errorf("Parse with a yescrypt hash = %v; want an error that names console.password", err)
	}
}
