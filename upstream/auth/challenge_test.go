package auth

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
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

// TestRealmsSelect checks which of several challenges is answered.
func TestRealmsSelect(t *testing.T) {
	const here = `Bearer realm="https://r.example.com/token#x",service="s",scope="repository:a:pull"`
	const relative = `Bearer realm="/token"`
	const elsewhere = `Bearer realm="https://other.example/token"`
	r := &Realms{Registry: &url.URL{Scheme: "https", Host: "r.example.com"}, HasLogin: true}
	for _, test := range []struct {
		lines []string
		realm string // of the selected challenge, "" for Basic
		err   string // part of the text
	}{
		{[]string{here}, "https://r.example.com/token", ""},
		{[]string{`Basic realm="x"`, here}, "https://r.example.com/token", ""},
		{[]string{relative, here, elsewhere}, "https://r.example.com/token", ""},
		{[]string{elsewhere, here}, "", "realm_hosts"},
		{[]string{relative, `Basic realm="x"`}, "", ""},
		{[]string{relative, `Negotiate`}, "", "absolute"},
		{[]string{`Negotiate`}, "", ErrUnsupported.Error()},
		{nil, "", ErrUnsupported.Error()},
	} {
		c, err := r.Select(header.ParseChallenges(test.lines))
		switch {
		case test.err != "":
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q: got %v, want an error with %q", test.lines, err, test.err)
			}
		case err != nil || c.IsBearer() != (test.realm != ""):
			t.Errorf("%q: got %+v and the error %v, want the realm %q", test.lines, c, err, test.realm)
		case c.IsBearer() && (c.Realm.String() != test.realm || c.Service != "s" || c.Repository != "a"):
			t.Errorf("%q: got %+v, want the realm %q, the service s and the repository a", test.lines, c, test.realm)
		}
	}
}

// TestSelectForeign checks which challenge of another registry is answered, and from where
// the repository is known.
func TestSelectForeign(t *testing.T) {
	const realm = `realm="https://auth.example/token"`
	for _, test := range []struct {
		line, target string
		want         string // the repository, "" if nothing is answered
	}{
		{`Bearer ` + realm + `,scope="repository:b:pull"`, "https://h/v2/a/blobs/x", "b"},
		{`Bearer ` + realm, "https://h/v2/a/blobs/x", "a"},
		{`Bearer ` + realm, "https://h/mirror/v2/a/b/blobs/x", "a/b"},
		{`Bearer ` + realm, "https://h/v2/a/blobs/y", ""},
		{`Bearer ` + realm, "https://h/a/blobs/x", ""},
		{`Bearer ` + realm, "https://h/v2/A/blobs/x", ""},
		{`Bearer ` + realm + `,scope="repository:b:push"`, "https://h/v2/a/blobs/x", "a"},
		{`Basic ` + realm, "https://h/v2/a/blobs/x", ""},
		{`Bearer realm="http://auth.example/token"`, "https://h/v2/a/blobs/x", ""},
		{`Bearer realm="http://auth.example/token"`, "http://h/v2/a/blobs/x", "a"},
		{`Bearer realm="/token"`, "https://h/v2/a/blobs/x", ""},
	} {
		target, err := url.Parse(test.target)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if c := SelectForeign(header.ParseChallenges([]string{test.line}), target, "blobs/x"); c != nil {
			got = c.Repository
		}
		if got != test.want {
			t.Errorf("%s from %s: got the repository %q, want %q", test.line, test.target, got, test.want)
		}
	}
}

func TestChallengeSameToken(t *testing.T) {
	bearer := func(realm, service, repository string) *Challenge {
		return &Challenge{Realm: &url.URL{Scheme: "https", Host: realm}, Service: service, Repository: repository}
	}
	first := bearer("a.example", "s", "x")
	for _, test := range []struct {
		other *Challenge
		want  bool
	}{
		{bearer("a.example", "s", "y"), true},
		{bearer("b.example", "s", "x"), false},
		{bearer("a.example", "t", "x"), false},
		{new(Challenge), false},
	} {
		if first.SameToken(test.other) != test.want || test.other.SameToken(first) != test.want {
			t.Errorf("%+v and %+v: got that they ask for the same token: %t, want %t", first, test.other, !test.want, test.want)
		}
	}
}
