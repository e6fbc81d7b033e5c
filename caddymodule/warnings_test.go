package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestMemberWithoutAccountWarning checks that a group member without an account
// is logged.
func TestMemberWithoutAccountWarning(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice", "alcie"))
	if logs := s.Logs(); !strings.Contains(logs, "group member has no account") || !strings.Contains(logs, "alcie") || strings.Contains(logs, `"member":"alice"`) {
		t.Error("the log lacks a warning about alcie, or has one about alice")
	}
	s.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusOK, "")
}

// TestPublicLoginWarning checks that the log and explain warn of a group that
// anybody may pull from with the credentials of the configuration, unless its
// limits exclude the upstream.
func TestPublicLoginWarning(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
	login := sitetest.HubCredentials(t)
	own := "upstream docker.io {\n " + login + "\n}\n"
	const mark = "anybody can pull what"
	for name, row := range map[string]struct {
		lines  []string
		pull   string
		holder string // empty: no warning
	}{
		"upstream's login":     {[]string{sitetest.Hub(up, login), sitetest.Visible("open", directory.Public)}, "open/x", "upstream docker.io"},
		"no login":             {[]string{sitetest.Hub(up), sitetest.Visible("open", directory.Public)}, "open/x", ""},
		"private":              {[]string{sitetest.Hub(up, login), sitetest.Private("open", "alice")}, "open/x", ""},
		"internal":             {[]string{sitetest.Hub(up, login), sitetest.Visible("open", directory.Internal)}, "open/x", ""},
		"own login":            {[]string{sitetest.Hub(up), "group open {\n visibility public\n " + own + "}"}, "open/x", "group open"},
		"inherited login":      {[]string{sitetest.Hub(up), "group acme {\n members alice\n " + own + "}", sitetest.Visible("acme/open", directory.Public)}, "acme/open/x", "group acme"},
		"limited elsewhere":    {[]string{sitetest.Hub(up, login), sitetest.UpstreamAt("ghcr.io", up.URL()), "group open {\n visibility public\n allow ghcr.io/**\n}"}, "open/ghcr.io/x", ""},
		"limited above":        {[]string{sitetest.Hub(up, login), sitetest.UpstreamAt("ghcr.io", up.URL()), "group acme {\n members alice\n allow ghcr.io/**\n}", sitetest.Visible("acme/open", directory.Public)}, "acme/open/x", ""},
		"denied":               {[]string{sitetest.Hub(up, login), "group open {\n visibility public\n deny docker.io/**\n}"}, "open/x", ""},
		"limited to a part":    {[]string{sitetest.Hub(up, login), "group open {\n visibility public\n allow docker.io/library/*\n}"}, "open/x", "upstream docker.io"},
		"denied by a tag":      {[]string{sitetest.Hub(up, login), "group open {\n visibility public\n deny docker.io/**:latest\n}"}, "open/x", "upstream docker.io"},
		"the other's no login": {[]string{sitetest.Hub(up), sitetest.UpstreamAt("ghcr.io", up.URL(), login), sitetest.Visible("open", directory.Public)}, "open/ghcr.io/x", "upstream ghcr.io"},
	} {
		s := sitetest.StartWithAdmin(t, append(row.lines, sitetest.Users("alice"))...)
		logs, out := s.Logs(), s.CommandOutput("explain", "--pull", row.pull)
		if got := strings.Contains(logs, mark); got != (row.holder != "") || row.holder != "" && !strings.Contains(logs, `"login_of":"`+row.holder+`"`) {
			t.Errorf("%s: got a warning in the log: %v, want one with login_of %q", name, got, row.holder)
		}
		if got := strings.Contains(out, "warning:     the group is public: "+mark+" the login of "+row.holder); got != (row.holder != "") {
			t.Errorf("%s: explain prints %s, want a warning: %v", name, out, row.holder != "")
		}
		s.Stop()
	}
}

// TestProxyWarning checks that the log says once for each configuration what to
// write if clients may forge the X-Forwarded-For of a trusted proxy.
func TestProxyWarning(t *testing.T) {
	s := sitetest.NewSite(t)
	other := sitetest.NewSite(t)
	_, port, _ := strings.Cut(other.Host, ":")
	s.After = "http://:" + port + " {\n bind 127.0.0.1\n dependency_proxy {\n storage filesystem " + s.Cache + " {\n reserve off\n}\n" + sitetest.Users("alice") + sitetest.Private("acme", "alice") + "}\n}\n"
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice")}
	warned := func() int { return strings.Count(s.Logs(), "write trusted_proxies_strict") }
	for _, row := range []struct {
		globals string
		more    int // warnings
	}{
		{"", 0}, {sitetest.TrustedProxies, 1}, {"servers {\n trusted_proxies static 192.0.2.1/32\n}", 0},
		{"servers {\n trusted_proxies static 127.0.0.1/32\n trusted_proxies_strict\n}", 0}, {sitetest.TrustedProxies, 1},
	} {
		before := warned()
		s.Globals = row.globals
		s.Load(lines...)
		if got := warned() - before; got != 0 {
			t.Errorf("%q: got %d warnings before any request, want none", row.globals, got)
		}
		for range 3 {
			s.Get("/v2/").Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			s.Get(sitetest.Auth, sitetest.As("alice"), sitetest.ForwardedFor("192.0.2.7")).Expect(t, http.StatusOK, "")
			other.Get("/v2/").Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		}
		if got := warned() - before; got != row.more {
			t.Errorf("%q: got %d warnings, want %d", row.globals, got, row.more)
		}
	}
}

// TestMisspelledEntryWarning checks that roles are given to exact names only,
// and that the log, once, and explain report an entry that differs from an
// account only in spelling.
func TestMisspelledEntryWarning(t *testing.T) {
	l := ldaptest.New(t, true)
	s := sitetest.StartWithAdmin(t, l.Directory(), sitetest.Users("zoe"), sitetest.Private("acme", "ldap:Alice", "ldap:bob", "zoe"), "admins ldap:ALICE static:alice")
	for range 2 {
		s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusForbidden, "DENIED")
		s.Get("/v2/", sitetest.As("bob")).Expect(t, http.StatusOK, "")
	}
	out, _ := s.Command("explain", "--as", "ldap:alice", "--pull", "acme/alpine")
	for _, entry := range []string{"ldap:Alice", "ldap:ALICE"} {
		if n := strings.Count(s.Logs(), `"entry":"`+entry+`","account":"ldap:alice"`); n != 1 {
			t.Errorf("got %d log lines about %s, want 1", n, entry)
		}
		if !strings.Contains(out, "the configuration lists "+entry) {
			t.Errorf("explain prints %q, want the entry %s", out, entry)
		}
	}
	if logs := s.Logs(); strings.Contains(logs, `"entry":"ldap:bob"`) || strings.Contains(logs, `"entry":"static:alice"`) {
		t.Error("got a log line about a correct entry or another directory, want none")
	}
}
