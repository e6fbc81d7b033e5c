package login

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// auditLines returns the audit lines since the last call as level, event,
// account, directory, group and reason. It checks the other fields.
func auditLines(s *sitetest.Site, seen *int) (lines []string) {
	s.T.Helper()
	all := strings.Split(strings.TrimSpace(s.Logs()), "\n")
	for _, text := range all[*seen:] {
		var line struct {
			Level, Logger, Msg, Event, Account, Directory, Group, Reason string
			ClientIP                                                     string `json:"client_ip"`
		}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			s.T.Fatal(err)
		}
		if line.Logger != "http.handlers.dependency_proxy.audit" {
			continue
		}
		var fields map[string]any
		_ = json.Unmarshal([]byte(text), &fields)
		for _, name := range []string{"ts", "level", "logger", "msg", "event", "account", "directory", "access_token", "client_ip", "group", "reason"} {
			if _, ok := fields[name].(string); !ok && name != "ts" {
				s.T.Errorf("got %v for %s, want a string in %s", fields[name], name, text)
			}
			delete(fields, name)
		}
		if len(fields) > 0 || line.Msg != line.Event || line.ClientIP != "127.0.0.1" {
			s.T.Errorf("got the audit line %s, want msg like event, client_ip 127.0.0.1 and no other fields", text)
		}
		lines = append(lines, strings.Join([]string{line.Level, line.Event, line.Account, line.Directory, line.Group, line.Reason}, "|"))
	}
	*seen = len(all)
	return lines
}

// TestAuditLog checks that each login and each refusal is logged once, with the
// same fields and without secrets.
func TestAuditLog(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	lines := []string{sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), sitetest.Hub(up), sitetest.Visible("open", directory.Public), "token {\n refresh_tokens on\n}"}
	s := sitetest.Start(t, append(lines, "blocked bob")...)
	pasted := "glpat-Zx81kPq27RtmVb3sN4yd"
	s.AddSecrets(pasted, "swapped-by-mistake")
	token := s.Token("alice")
	offline := s.Get(sitetest.Auth+"&offline_token=1", sitetest.As("alice")).Tokens().RefreshToken
	seen := 0
	auditLines(s, &seen)
	login := func(name, password string) sitetest.RequestOption {
		return func(r *http.Request) { r.SetBasicAuth(name, password) }
	}
	grant := func(token string) sitetest.RequestOption {
		return sitetest.Form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
	}
	path := sitetest.ManifestPath("acme", "alpine", "3.20")
	for name, row := range map[string]struct {
		ask  func() sitetest.Answer
		want string
	}{
		"login": {func() sitetest.Answer { return s.Get(sitetest.Auth, sitetest.As("alice")) }, "info|login|alice|static||password as before"},
		"login by POST": {func() sitetest.Answer {
			return s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("alice", sitetest.PasswordOf("alice"))))
		}, "info|login|alice|static||password as before"},
		"Basic":        {func() sitetest.Answer { return s.Get(path, sitetest.As("alice")) }, "debug|login|alice|static|acme|password as before"},
		"refresh":      {func() sitetest.Answer { return s.Get("/jwt/auth", grant(offline)) }, "info|login|alice|static||refresh token"},
		"wrong":        {func() sitetest.Answer { return s.Get(sitetest.Auth, login("alice", "x")) }, "warn|login refused|alice|static||wrong password"},
		"wrong Basic":  {func() sitetest.Answer { return s.Get(path, login("alice", "x")) }, "warn|login refused|alice|static|acme|wrong password"},
		"nobody":       {func() sitetest.Answer { return s.Get(sitetest.Auth, login("nobody", "x")) }, "warn|login refused|nobody|||unknown account"},
		"blocked":      {func() sitetest.Answer { return s.Get(sitetest.Auth, sitetest.As("bob")) }, "warn|login refused|bob|static||the account is blocked"},
		"pasted":       {func() sitetest.Answer { return s.Get(sitetest.Auth, login(pasted, "x")) }, "warn|login refused|(26 bytes that may be a secret)|||unknown account"},
		"pasted twice": {func() sitetest.Answer { return s.Get(sitetest.Auth, login("swapped-by-mistake", "swapped-by-mistake")) }, "warn|login refused|(18 bytes that may be a secret)|||unknown account"},
		"access token": {func() sitetest.Answer { return s.Get(sitetest.Auth, login(token, "x")) }, fmt.Sprintf("warn|login refused|(%d bytes that may be a secret)|||unknown account", len(token))},
		"long":         {func() sitetest.Answer { return s.Get(sitetest.Auth, login(strings.Repeat("é ", 900), "x")) }, "warn|login refused|" + strings.Repeat("é ", 21) + "...|||unknown account"},
		"control":      {func() sitetest.Answer { return s.Get(sitetest.Auth, login("a\x1b[2J\n", "x")) }, "warn|login refused|a?[2J?|||unknown account"},
		"bad token":    {func() sitetest.Answer { return s.Get(path, sitetest.Bearer("a.b.c")) }, "warn|token refused|||acme|invalid token: malformed"},
		"bad refresh":  {func() sitetest.Answer { return s.Get("/jwt/auth", grant("a.b.c")) }, "warn|token refused||||refresh token: invalid token: malformed"},
		"wrong group": {func() sitetest.Answer {
			return s.Get(sitetest.ManifestPath("other", "alpine", "3.20"), sitetest.Bearer(token))
		}, "warn|denied|alice|static|other|unknown group"},
		"no login":       {func() sitetest.Answer { return s.Get("/v2/") }, ""},
		"nothing wanted": {func() sitetest.Answer { return s.Get("/v2/", sitetest.Bearer(token)) }, ""},
	} {
		row.ask()
		var want []string
		if row.want != "" {
			want = []string{row.want}
		}
		if got := auditLines(s, &seen); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	// The name in a valid token is logged even if its account no longer
	// exists.
	s.Load(append(lines, "blocked alice")...)
	s.Get(path, sitetest.Bearer(token)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Load(append(lines, "private_groups off")...)
	s.Get(path, sitetest.Bearer(token)).Expect(t, http.StatusForbidden, "DENIED")
	s.Get(path, sitetest.Bearer(s.Get(sitetest.Auth).Tokens().Token)).Expect(t, http.StatusForbidden, "DENIED")
	want := []string{"warn|token refused|alice|static|acme|the account is blocked", "warn|denied|alice|static|acme|private groups are off", "warn|denied|||acme|anonymous"}
	if got := auditLines(s, &seen); !slices.Equal(got, want) {
		t.Errorf("after reloads: got %q, want %q", got, want)
	}
}
