package parse

import (
	"strings"
	"testing"
)

// TestURL: only absolute URLs with a host and one of the schemes are accepted.
func TestURL(t *testing.T) {
	for text, want := range map[string]bool{
		"https://gitlab.example.com": true, "http://127.0.0.1:81/x/": true, "https://[::1]:81": true,
		"ftp://example.com": false, "example.com": false, "https://": false, "https://:443": false, "": false, "https://a b": false,
		"https://user:password@example.com": false, "https://example.com/?x": false, "https://example.com/?x=1": false, "https://example.com/#x": false,
	} {
		if u, ok := URL(text, "https", "http"); ok != want || ok != (u != nil) {
			t.Errorf("%q: got %v, %v, want %v", text, u, ok, want)
		}
	}
}

// TestSecret: a placeholder without a value is an error that names the placeholder.
func TestSecret(t *testing.T) {
	t.Setenv("PARSE_SECRET", "value")
	t.Setenv("PARSE_BLANK", " \n")
	if got, err := Secret("token", "{env.PARSE_SECRET}"); got != "value" || err != nil {
		t.Errorf("got %q, %v, want value", got, err)
	}
	for _, placeholder := range []string{"{env.PARSE_BLANK}", "{env.PARSE_NOT_SET}", "{file./none/at/all}"} {
		if got, err := Secret("token", placeholder); err == nil || !strings.Contains(err.Error(), "token placeholder "+placeholder) {
			t.Errorf("%s: got %q, %v, want an error with the placeholder", placeholder, got, err)
		}
	}
	for value, want := range map[string]bool{"{env.X}": true, "{env.X": false, "secret": false, "": false} {
		if got := IsPlaceholder(value); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}

// TestEach: names are unique, and the first thing that is wrong is reported.
func TestEach(t *testing.T) {
	self := func(s string) string { return s }
	check := func(string) error { return nil }
	if err := Each("group", []string{"a", "b"}, self, check); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	if err := Each("group", []string{"a", "b", "a", "b"}, self, check); err == nil || err.Error() != "duplicate group 'a'" {
		t.Errorf("got %v, want duplicate group 'a'", err)
	}
}
