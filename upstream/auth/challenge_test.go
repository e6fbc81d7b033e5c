package auth

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

var realmTests = []struct {
	endpoint, realm  string
	anonymous, login bool // whether a token may be requested without and with a login
}{
	{"https://registry-1.docker.io", "https://auth.docker.io/token", true, true},
	{"https://ghcr.io", "https://ghcr.io/token", true, true},
	{"https://h:5000", "https://h:5000/token", true, true},
	{"https://h:443", "https://H/token", true, true},
	{"https://r.example.com", "https://a.example.com:8443/token", true, true},
	{"https://r.example.com.", "https://a.EXAMPLE.com/token", true, true},
	{"https://r.example.com", "https://evil.com/token", true, false},
	{"https://r.example.com", "https://example.com.evil.com/token", true, false},
	{"https://me.github.io", "https://you.github.io/token", true, false}, // a public suffix
	{"https://a.co.uk", "https://b.co.uk/token", true, false},
	{"https://192.0.2.1", "https://198.0.2.1/token", true, false}, // no domain
	{"https://[2001:db8::1]", "https://[2001:db8::2]/token", true, false},
	{"https://localhost:1", "https://localhost:2/token", true, false},
	{"https://r.example.com", "https://login.other.example/token", true, true},
	{"https://r.example.com", "https://login.other.example:8443/token", true, true},
	{"https://r.example.com", "https://login.other.example:9443/token", true, false},
	{"https://r.example.com", "http://r.example.com/token", false, false}, // downgrade
	{"https://r.example.com", "http://r.example.com:443/token", false, false},
	{"http://r.example.com", "http://r.example.com/token", true, true},
	{"http://r.example.com", "http://a.example.com/token", true, false},
	{"http://r.example.com", "http://r.example.com:81/token", true, false},
	{"http://r.example.com", "http://login.other.example/token", true, false},
	{"http://r.example.com", "https://a.example.com/token", true, true},
}

func TestRealmsCheck(t *testing.T) {
	hosts := []string{"login.other.example", "login.other.example:8443"}
	for _, test := range realmTests {
		for _, login := range []bool{false, true} {
			endpoint, err := url.Parse(test.endpoint)
			if err != nil {
				t.Fatal(err)
			}
			r := &Realms{Registry: endpoint, HasLogin: login, Hosts: hosts}
			realm, err := parseRealm(test.realm)
			if err != nil {
				t.Fatal(err)
			}
			want := test.anonymous
			if login {
				want = test.login
			}
			if err := r.check(realm); (err == nil) != want {
				t.Errorf("%s, realm %s, login %v: got %v, want permitted %v", test.endpoint, test.realm, login, err, want)
			}
		}
	}
	checkRealmTexts(t)
	for _, text := range []string{"", "/token", "token", "//h/token", "ftp://h/token", "https://", "https://u:p@h/token", "https://h:port/", "%zz", "mailto:a@h"} {
		if realm, err := parseRealm(text); err == nil {
			t.Errorf("parseRealm(%q) = %v, want an error", text, realm)
		}
	}
}

// checkRealmTexts checks that an error about a realm says what to change.
func checkRealmTexts(t *testing.T) {
	t.Helper()
	r := &Realms{Registry: &url.URL{Scheme: "http", Host: "r.example.com"}, HasLogin: true, Hosts: []string{"login.other.example"}}
	for realm, want := range map[string]string{
		"http://login.other.example/token":       "plain http",
		"https://login.other.example:9443/token": "add login.other.example:9443 to realm_hosts",
		"https://more.example/token":             "add more.example to realm_hosts",
	} {
		parsed, err := parseRealm(realm)
		if err != nil {
			t.Fatal(err)
		}
		err = r.check(parsed)
		var withheld *WithheldError
		if !errors.As(err, &withheld) || !strings.Contains(err.Error(), want) {
			t.Errorf("realm %s: got %v, want a WithheldError with %q", realm, err, want)
		}
	}
}
