package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// auditLines returns the audit lines since the last call as level, event,
// account, directory, group and reason. It checks the other fields.
func (s *site) auditLines(seen *int) (lines []string) {
	s.t.Helper()
	all := strings.Split(strings.TrimSpace(s.logs()), "\n")
	for _, text := range all[*seen:] {
		var line struct {
			Level, Logger, Msg, Event, Account, Directory, Group, Reason string
			ClientIP                                                     string `json:"client_ip"`
		}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			s.t.Fatal(err)
		}
		if line.Logger != "http.handlers.dependency_proxy.audit" {
			continue
		}
		var fields map[string]any
		_ = json.Unmarshal([]byte(text), &fields)
		for _, name := range []string{"ts", "level", "logger", "msg", "event", "account", "directory", "access_token", "client_ip", "group", "reason"} {
			if _, ok := fields[name].(string); !ok && name != "ts" {
				s.t.Errorf("got %v for %s, want a string in %s", fields[name], name, text)
			}
			delete(fields, name)
		}
		if len(fields) > 0 || line.Msg != line.Event || line.ClientIP != "127.0.0.1" {
			s.t.Errorf("got the audit line %s, want msg like event, client_ip 127.0.0.1 and no other fields", text)
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
	up.PutImage("library/alpine", "3.20", random(1, 100))
	lines := []string{users("alice", "bob"), private("acme", "alice"), hub(up), visible("open", directory.Public), "token {\n refresh_tokens on\n}"}
	s := start(t, append(lines, "blocked bob")...)
	pasted := "glpat-Zx81kPq27RtmVb3sN4yd"
	s.addSecrets(pasted, "swapped-by-mistake")
	token := s.token("alice")
	offline := s.get(auth+"&offline_token=1", as("alice")).tokens().RefreshToken
	seen := 0
	s.auditLines(&seen)
	login := func(name, password string) requestOption {
		return func(r *http.Request) { r.SetBasicAuth(name, password) }
	}
	grant := func(token string) requestOption {
		return form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
	}
	path := manifestPath("acme", "alpine", "3.20")
	for name, row := range map[string]struct {
		ask  func() answer
		want string
	}{
		"login":          {func() answer { return s.get(auth, as("alice")) }, "info|login|alice|static||password as before"},
		"login by POST":  {func() answer { return s.get("/jwt/auth", form(loginForm("alice", passwordOf("alice")))) }, "info|login|alice|static||password as before"},
		"Basic":          {func() answer { return s.get(path, as("alice")) }, "debug|login|alice|static|acme|password as before"},
		"refresh":        {func() answer { return s.get("/jwt/auth", grant(offline)) }, "info|login|alice|static||refresh token"},
		"wrong":          {func() answer { return s.get(auth, login("alice", "x")) }, "warn|login refused|alice|static||wrong password"},
		"wrong Basic":    {func() answer { return s.get(path, login("alice", "x")) }, "warn|login refused|alice|static|acme|wrong password"},
		"nobody":         {func() answer { return s.get(auth, login("nobody", "x")) }, "warn|login refused|nobody|||unknown account"},
		"blocked":        {func() answer { return s.get(auth, as("bob")) }, "warn|login refused|bob|static||the account is blocked"},
		"pasted":         {func() answer { return s.get(auth, login(pasted, "x")) }, "warn|login refused|(26 bytes that may be a secret)|||unknown account"},
		"pasted twice":   {func() answer { return s.get(auth, login("swapped-by-mistake", "swapped-by-mistake")) }, "warn|login refused|(18 bytes that may be a secret)|||unknown account"},
		"access token":   {func() answer { return s.get(auth, login(token, "x")) }, fmt.Sprintf("warn|login refused|(%d bytes that may be a secret)|||unknown account", len(token))},
		"long":           {func() answer { return s.get(auth, login(strings.Repeat("é ", 900), "x")) }, "warn|login refused|" + strings.Repeat("é ", 21) + "...|||unknown account"},
		"control":        {func() answer { return s.get(auth, login("a\x1b[2J\n", "x")) }, "warn|login refused|a?[2J?|||unknown account"},
		"bad token":      {func() answer { return s.get(path, bearer("a.b.c")) }, "warn|token refused|||acme|invalid token: malformed"},
		"bad refresh":    {func() answer { return s.get("/jwt/auth", grant("a.b.c")) }, "warn|token refused||||refresh token: invalid token: malformed"},
		"wrong group":    {func() answer { return s.get(manifestPath("other", "alpine", "3.20"), bearer(token)) }, "warn|denied|alice|static|other|unknown group"},
		"no login":       {func() answer { return s.get("/v2/") }, ""},
		"nothing wanted": {func() answer { return s.get("/v2/", bearer(token)) }, ""},
	} {
		row.ask()
		var want []string
		if row.want != "" {
			want = []string{row.want}
		}
		if got := s.auditLines(&seen); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	// The name in a valid token is logged even if its account no longer
	// exists.
	s.load(append(lines, "blocked alice")...)
	s.get(path, bearer(token)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.load(append(lines, "private_groups off")...)
	s.get(path, bearer(token)).expect(t, http.StatusForbidden, "DENIED")
	s.get(path, bearer(s.get(auth).tokens().Token)).expect(t, http.StatusForbidden, "DENIED")
	want := []string{"warn|token refused|alice|static|acme|the account is blocked", "warn|denied|alice|static|acme|private groups are off", "warn|denied|||acme|anonymous"}
	if got := s.auditLines(&seen); !slices.Equal(got, want) {
		t.Errorf("after reloads: got %q, want %q", got, want)
	}
}
