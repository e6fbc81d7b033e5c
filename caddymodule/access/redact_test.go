package access

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestLooksGenerated(t *testing.T) {
	for text, want := range map[string]bool{
		"glpat-Zx81kPq27RtmVb3sN4yd": true, "ghp_16C7e42F292c6912E7710c838347Ae178B4a": true, "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln": true,
		"0123456789abcdef0123456789abcdef": true, "dckr_pat_AbCdEfGhIjKlMnOpQrStUvWxYz": true, "q3VtZ+/8kPq27RtmVb3sNg==": true,
		"": false, "alice": false, "hunter2": false, "alice@example.com": false, "someone.with.a.long.name": false, "a1b2c3d4e5f6g7h8i9j": false,
		"correct horse battery staple 1": false, "correct-horse-battery-staple": false, "01234567890123456789": false, "Überlanges-Passwort-123": false,
	} {
		if got := looksGenerated(text); got != want {
			t.Errorf("looksGenerated(%q): got %t, want %t", text, got, want)
		}
	}
}

// FuzzShownName checks that the name of a failed login is logged in a form that is
// short, printable, and without the password.
func FuzzShownName(f *testing.F) {
	f.Add("alice", "x")
	f.Add("pässword", "ssword")
	f.Add(strings.Repeat("é", 40), "é")
	f.Add("\xff\xfe\x00"+strings.Repeat("a", 100), "")
	a := NewAccounts(Config{})
	f.Fuzz(func(t *testing.T, name, password string) {
		shown := a.ShownName(name, password)
		if len(shown) > 3*maxShownName || !utf8.ValidString(shown) || strings.ContainsFunc(shown, unicode.IsControl) {
			t.Errorf("ShownName(%q): got %q, want at most %d printable bytes", name, shown, 3*maxShownName)
		}
		if password != "" && strings.Contains(name, password) && !strings.HasSuffix(shown, " bytes that may be a secret)") {
			t.Errorf("ShownName(%q, %q): got %q, want it redacted", name, password, shown)
		}
	})
}
