package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func init() { caddy.RegisterModule(new(scribbler)) }

// scribbler is an authentication provider that writes headers and a body of its
// own to each response.
type scribbler struct {
	Mode string `json:"mode,omitempty"`
	Word string `json:"word,omitempty"`
}

var (
	scribblerBody  atomic.Value // body of the last request, as far as it could be read
	scribblerHeard atomic.Value // names in the last request
)

func (*scribbler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.authentication.providers.scribbler", New: func() caddy.Module { return new(scribbler) }}
}

func (s *scribbler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if err := parse.Arg(d, &s.Mode); err != nil {
		return err
	}
	return parse.Lines(d, "scribbler", map[string]func(*caddyfile.Dispenser) error{
		"word": func(d *caddyfile.Dispenser) error { return parse.Arg(d, &s.Word) },
	})
}

func (s *scribbler) Authenticate(w http.ResponseWriter, r *http.Request) (caddyauth.User, bool, error) {
	body, _ := io.ReadAll(r.Body)
	scribblerBody.Store(string(body))
	w.Header().Set("WWW-Authenticate", `Basic realm="scribble"`)
	w.Header().Set("Set-Cookie", "scribble=1")
	http.Redirect(w, r, "https://login.example/scribble", http.StatusFound)
	_, _ = io.WriteString(w, "scribble")
	name, given, _ := r.BasicAuth()
	scribblerHeard.Store(name + r.PostFormValue("username"))
	if given == "broken" {
		return caddyauth.User{}, false, errors.New("the scribbler has broken its pen")
	}
	user := caddyauth.User{ID: name, Metadata: map[string]string{"teams": "acme, acme/platform\tx/../y UPPER,,tools acme"}}
	if ldaptest.ValueKey(name) == "root" {
		user.ID = "root"
	}
	switch name {
	case "Alice":
		user.ID = "alice"
	case "empty":
		user.ID = ""
	case "many":
		for i := range 100 {
			user.Metadata["teams"] += fmt.Sprintf(" group-%d", i)
		}
	}
	return user, given == passwordOf("scribbler"), nil
}

// TestAuthenticationDirectory checks that an authentication provider checks
// logins, that the groups it reports apply, and that nothing it writes reaches
// the client.
func TestAuthenticationDirectory(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	a := func(lines string) string {
		return "directory authentication {\n provider scribbler on\n" + lines + "\n}\n"
	}
	rest := []string{private("acme"), private("acme/platform"), private("tools"), private("other", "authentication:zoe"), private("secret", "static:alice"), hub(up), "token {\n refresh_tokens on\n}"}
	load := func(directories string) []string { return append([]string{directories}, rest...) }
	s := start(t, load(users("alice")+a("groups teams"))...)
	s.addSecrets(passwordOf("scribbler"))
	as := func(name string) requestOption {
		return func(r *http.Request) { r.SetBasicAuth(name, passwordOf("scribbler")) }
	}
	clean := func(a answer) answer {
		t.Helper()
		if text := string(a.body); strings.Contains(text, "scribble") || strings.Contains(a.Header.Get("WWW-Authenticate"), "scribble") || a.Header.Get("Set-Cookie")+a.Header.Get("Location") != "" {
			t.Errorf("got the response of the provider, want none of it: %v %s", a.Header, text)
		}
		return a
	}
	tokens := clean(s.get(auth+"&offline_token=true", as("zoe"))).expect(t, http.StatusOK, "").tokens()
	posted := clean(s.get("/jwt/auth", form(loginForm("zoe", passwordOf("scribbler"))))).expect(t, http.StatusOK, "").tokens()
	if body := scribblerBody.Load(); body != "" {
		t.Errorf("the provider got the body %q, want none", body)
	}
	if heard := scribblerHeard.Load(); heard != "zoe" {
		t.Errorf("the provider got the name %q, want another", heard)
	}
	// The provider does not get the name of a configured account.
	clean(s.get("/jwt/auth", form(loginForm("alice", passwordOf("scribbler"))))).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if heard := scribblerHeard.Load().(string); !strings.HasPrefix(heard, "nobody-") || strings.Contains(heard, "alice") {
		t.Errorf("the provider got the name %q, want another", heard)
	}
	refresh := form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken}})
	refreshed := s.get("/jwt/auth", refresh).expect(t, http.StatusOK, "").tokens()
	for _, who := range []requestOption{as("zoe"), bearer(tokens.Token), bearer(posted.Token), bearer(refreshed.Token)} {
		for group, status := range map[string]int{"acme": 200, "acme/platform": 200, "tools": 200, "other": 200, "secret": 403, "x": 403} {
			if a := clean(s.get(manifestPath(group, "alpine", "3.20"), who)); a.StatusCode != status {
				t.Errorf("%s: got status %d, want %d", group, a.StatusCode, status)
			}
		}
	}
	clean(s.get("/v2/", func(r *http.Request) { r.SetBasicAuth("zoe", "wrong") })).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	clean(s.get(auth, func(r *http.Request) { r.SetBasicAuth("zoe", "broken") })).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	clean(s.get(auth, as("many"))).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	clean(s.get(auth, as("empty"))).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	clean(s.get("/jwt/auth", form(loginForm("zoe:x", passwordOf("scribbler"))))).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	// The provider returns the name of the configured account alice.
	clean(s.get(manifestPath("acme", "alpine", "3.20"), as("Alice"))).expect(t, http.StatusOK, "")
	clean(s.get(manifestPath("secret", "alpine", "3.20"), as("Alice"))).expect(t, http.StatusForbidden, "DENIED")
	if logs := s.logs(); !strings.Contains(logs, `"account":"alice","directory":"authentication"`) || !strings.Contains(logs, "broken its pen") || !strings.Contains(logs, "longer than 1024") {
		t.Error("the log lacks the account or the reasons of the failures")
	}
	s.load(load(users("alice") + a(""))...)
	clean(s.get(manifestPath("acme", "alpine", "3.20"), as("zoe"))).expect(t, http.StatusForbidden, "DENIED")
	clean(s.get(manifestPath("acme", "alpine", "3.20"), bearer(tokens.Token))).expect(t, http.StatusUnauthorized, "UNAUTHORIZED") // its groups no longer count
	s.load(load(users("alice") + "directory authentication {\n provider scribbler off\n groups teams\n}\n")...)
	s.get("/v2/", bearer(tokens.Token)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED") // issued with another provider
}
