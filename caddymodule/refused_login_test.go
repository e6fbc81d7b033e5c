package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
)

// TestRefusalIsRemembered checks that a login that all directories have refused
// is refused for a minute without asking them, and that any other one is
// checked each time.
func TestRefusalIsRemembered(t *testing.T) {
	for name, row := range map[string]struct {
		says      error
		remembers bool
	}{
		"a wrong password":       {directory.ErrWrongPassword, true},
		"an unknown name":        {directory.ErrUnknownAccount, true},
		"a blocked account":      {directory.ErrBlocked, false},
		"a directory away":       {errors.New("away"), false},
		"busy":                   {password.ErrBusy, false},
		"wrong for this request": {fmt.Errorf("%w: %w", directory.ErrWrongPassword, directory.ErrThisRequest), false},
		"unknown for this one":   {fmt.Errorf("%w: %w", directory.ErrUnknownAccount, directory.ErrThisRequest), false},
		"a right one":            {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := newRemoteDirectory(10*time.Millisecond, func(directory.Login) error { return row.says })
				d := newLoginTest(t, server)
				asked := func(what, name, password string, wait time.Duration, want int) {
					t.Helper()
					time.Sleep(wait)
					server.heard = nil
					first := d.login(name, password, "192.0.2.1")
					if len(server.heard) != want {
						t.Errorf("%s: got %d questions to the directory, want %d", what, len(server.heard), want)
					}
					if row.says != nil && first.took != time.Second {
						t.Errorf("%s: got an answer after %s, want 1s", what, first.took)
					}
				}
				again := map[bool]int{true: 0, false: 1}[row.remembers]
				asked("first", "ann", "x", 0, 1)
				asked("again", "ann", "x", 0, again)
				asked("another password", "ann", "y", 0, 1)
				asked("another spelling", "Ann", "x", 0, 1)
				asked("just within the time", "ann", "x", sitetest.DocumentedRefuseFor-5*time.Second, again)
				asked("after it", "ann", "x", 6*time.Second, 1)
			})
		})
	}
}

// TestRefusalDuringOutage checks that a refusal that the client was not told,
// because another directory could not be asked, is not remembered.
func TestRefusalDuringOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away error
		first, second := newRemoteDirectory(0, knowsOnly("ann")), newRemoteDirectory(0, func(directory.Login) error { return away })
		d := newLoginTest(t, first, second)
		away = errors.New("away")
		d.expect("while it is away", d.login("ann", "x", "192.0.2.1"), 503, time.Second)
		away = directory.ErrUnknownAccount
		d.expect("when it is back", d.login("ann", "x", "192.0.2.1"), 401, time.Second)
		d.expect("again", d.login("ann", "x", "192.0.2.1"), 401, time.Second)
		if len(first.heard) != 2 {
			t.Errorf("got %d questions to the first directory, want 2", len(first.heard))
		}
	})
}

// TestRefusalIsForgotten checks that a password that was wrong a moment ago is
// accepted at once after a reload or a change of the users file makes it right,
// and that sites remember refusals separately.
func TestRefusalIsForgotten(t *testing.T) {
	s := sitetest.NewSite(t)
	file := filepath.Join(s.Dir, "users")
	sitetest.WriteFile(t, file, sitetest.UsersText("bob"))
	sitetest.Backdate(t, file)
	lines := []string{"directory static {\n name file\n users_file " + file + "\n}", sitetest.Visible("acme", directory.Internal)}
	other := sitetest.NewSite(t)
	_, port, _ := strings.Cut(other.Host, ":")
	s.After = "http://:" + port + " {\n bind 127.0.0.1\n dependency_proxy {\n storage filesystem " + s.Cache + " {\n reserve off\n}\n name other\n" + sitetest.Users("alice") + sitetest.Visible("acme", directory.Internal) + "}\n}\n"
	s.Load(lines...)
	wrong := func(s *sitetest.Site) sitetest.Answer { return s.Get("/v2/", sitetest.As("alice")) }
	wrong(s).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	other.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	wrong(s).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	sitetest.WriteFile(t, file, sitetest.UsersText("bob", "alice"))
	sitetest.Backdate(t, file)
	time.Sleep(250 * time.Millisecond)
	wrong(s).Expect(t, http.StatusOK, "")

	s.Get("/v2/", sitetest.As("carol")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Load(append(lines, sitetest.Users("carol"))...)
	s.Get("/v2/", sitetest.As("carol")).Expect(t, http.StatusOK, "")
}

// TestRefusalSparesLDAP checks that a wrong login that is repeated reaches the
// server once.
func TestRefusalSparesLDAP(t *testing.T) {
	l := ldaptest.New(t, true)
	s := sitetest.LdapSite(t, l.Directory("cache_for 1ns"))
	l.Heard()
	for range 150 {
		s.Get("/v2/", sitetest.Basic("alice", "last month's")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	binds := 0
	dns, _ := l.Heard()
	for _, dn := range dns {
		if strings.Contains(dn, "alice") {
			binds++
		}
	}
	if binds != 1 {
		t.Errorf("got %d binds for one wrong login, want 1", binds)
	}
	s.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusOK, "")
}

// TestRefusalSparesGitLab checks that a wrong token that is repeated reaches
// GitLab once, even when GitLab's own answers are no longer cached.
func TestRefusalSparesGitLab(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, "cache_for 1ns"))
	for range 50 {
		s.Get(sitetest.Auth, sitetest.Basic("alice", alice+"x")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	if n := g.Asked("/api/v4/personal_access_tokens/self"); n != 1 {
		t.Errorf("got %d questions to GitLab about one wrong token, want 1", n)
	}
}

// TestWrongTokenDuringGitLabOutage checks that a wrong token is answered in the
// same way during an outage of GitLab, whether or not the configuration has an
// account of that name.
func TestWrongTokenDuringGitLabOutage(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies
	s.AddSecrets("secret-that-must-not-leak")
	s.Load(sitetest.Users("carol"), sitetest.GitlabAt(t, g, "cache_for 1ns"))
	away := func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "down", http.StatusBadGateway)
		return true
	}
	for i, fault := range []func(http.ResponseWriter, *http.Request) bool{nil, away, nil} {
		g.Change(func() { g.Fault = fault })
		status, code := http.StatusUnauthorized, "UNAUTHORIZED"
		if fault != nil {
			status, code = http.StatusServiceUnavailable, "UNAVAILABLE"
		}
		for _, kind := range []string{"glpat-", "gldt-"} {
			for _, name := range []string{"carol", "nobody"} {
				secret := fmt.Sprint(kind, name, "s-", i, "-secret-that-must-not-leak")
				s.Get(sitetest.Auth, sitetest.Basic(name, secret), sitetest.ForwardedFor(fmt.Sprint("198.51.100.", i))).Expect(t, status, code)
			}
		}
		for _, name := range []string{"carol", "nobody"} { // GitLab is asked only about tokens
			s.Get(sitetest.Auth, sitetest.Basic(name, fmt.Sprint("hunter", i))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		}
	}
	if g.Saw("glpat-carols-") || !g.Saw("glpat-nobodys-") {
		t.Error("GitLab got a password of an account of the configuration, or none of others")
	}
}
