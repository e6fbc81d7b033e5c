package caddymodule

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestGroupPermissions checks that the page, the purge and the tokens of a
// group ask for Basic credentials and require the right role.
func TestGroupPermissions(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice", "bob", "carol", "dave"), sitetest.AcmeRoles, sitetest.Private("acme/sub"), sitetest.Private("other", "alice"), sitetest.Visible("open", directory.Public), "admins dave")
	page, cache, tokens := "/acme/dependency_proxy", "/acme/dependency_proxy/cache", "/acme/dependency_proxy/tokens"
	for _, path := range []string{page, page + "/", tokens, "/none/dependency_proxy", "/open/dependency_proxy"} {
		s.Get(path).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED").Has(t, "WWW-Authenticate", sitetest.BasicChallenge).Has(t, "Cache-Control", "no-store")
	}
	for name, may := range map[string]map[string]bool{
		"alice": {page: true}, "bob": {page: true, cache: true}, "carol": {page: true, cache: true, tokens: true}, "dave": {page: true, cache: true, tokens: true},
	} {
		for path, verb := range map[string]string{page: http.MethodGet, cache: http.MethodDelete, tokens: http.MethodGet} {
			for _, who := range []sitetest.RequestOption{sitetest.As(name), sitetest.Bearer(s.Token(name))} {
				a := s.Get(path, sitetest.Method(verb), who)
				if may[path] {
					a.Expect(t, map[string]int{page: 200, cache: 202, tokens: 200}[path], "")
				} else {
					a.Expect(t, http.StatusForbidden, "DENIED")
				}
			}
		}
		s.Get("/acme/sub/dependency_proxy", sitetest.As(name)).Expect(t, map[bool]int{true: 200, false: 403}[may[page]], map[bool]string{false: "DENIED"}[may[page]])
		s.Get("/none/dependency_proxy", sitetest.As(name)).Expect(t, http.StatusForbidden, "DENIED")
	}
	s.Get(page, sitetest.As("carol"), sitetest.Header("Sec-Fetch-Site", "cross-site")).Expect(t, http.StatusOK, "") // a link
	s.Get(cache, sitetest.Method(http.MethodDelete), sitetest.As("carol"), sitetest.Header("Sec-Fetch-Site", "cross-site")).Expect(t, http.StatusForbidden, "DENIED")
	s.Get(cache, sitetest.As("carol")).Expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED").Has(t, "Allow", "DELETE")
	s.Get(tokens, sitetest.Method(http.MethodPut), sitetest.As("carol")).Expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED").Has(t, "Allow", "GET, POST")
	for _, path := range []string{"/dependency_proxyx", "/Acme/dependency_proxy", "/acme/dependency_proxy/else", "/acme/dependency_proxyx", "/acme/dependency_proxy/tokens/a/b", "/acme//dependency_proxy", "/%61cme/dependency_proxy"} {
		s.Get(path).Content(t, []byte("next handler"))
	}
}

// TestGroupTokens checks that an owner creates, lists and revokes the tokens of
// the own group only.
func TestGroupTokens(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice", "carol"), sitetest.AcmeRoles, "group other {\n owners alice\n}\n", sitetest.Hub(up))
	path := "/acme/dependency_proxy/tokens"
	made := s.Get(path, sitetest.As("carol"), sitetest.JSONBody(http.MethodPost, `{"name":"runner","lifetime":"24h"}`)).Expect(t, http.StatusCreated, "")
	var token struct {
		Token, ID, Kind string
		CreatedBy       string `json:"created_by"`
	}
	if err := json.Unmarshal(made.Data, &token); err != nil || token.Kind != "deploy" || token.CreatedBy != "static:carol" {
		t.Fatalf("got %s, error %v; want a deploy token created by static:carol", made.Data, err)
	}
	s.AddSecrets(token.Token)
	pull := func(group string) sitetest.Answer {
		return s.Get(sitetest.ManifestPath(group, "alpine", "3.20"), sitetest.Basic("ci", token.Token))
	}
	pull("acme").Expect(t, http.StatusOK, "")
	pull("other").Expect(t, http.StatusForbidden, "DENIED")
	s.Get(path, sitetest.Basic("ci", token.Token)).Expect(t, http.StatusForbidden, "DENIED") // a deploy token can only pull
	if list := s.Get(path, sitetest.As("carol")).Expect(t, http.StatusOK, ""); !strings.Contains(string(list.Data), token.ID) || strings.Contains(string(list.Data), token.Token) {
		t.Errorf("got the list %s, want the ID and not the token", list.Data)
	}
	if list := s.Get("/other/dependency_proxy/tokens", sitetest.As("alice")).Expect(t, http.StatusOK, ""); strings.Contains(string(list.Data), token.ID) {
		t.Errorf("got the list %s for another owner, want no token of acme", list.Data)
	}
	s.Get("/other/dependency_proxy/tokens/"+token.ID, sitetest.Method(http.MethodDelete), sitetest.As("alice")).Expect(t, http.StatusNotFound, "NAME_UNKNOWN")
	pull("acme").Expect(t, http.StatusOK, "")
	s.Get(path+"/"+token.ID, sitetest.Method(http.MethodDelete), sitetest.As("carol")).Expect(t, http.StatusOK, "")
	pull("acme").Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")

	for body, status := range map[string]int{
		`{`: 400, `{"kind":"personal"}`: 400, `{"kind":"group","role":"king"}`: 400, `{"account":"alice"}`: 400, `{"groups":["other"]}`: 400, `{"lifetime":"1s"}`: 400,
	} {
		s.Get(path, sitetest.As("carol"), sitetest.JSONBody(http.MethodPost, body)).Expect(t, status, "UNSUPPORTED")
	}
	s.Get(path, sitetest.As("carol"), sitetest.JSONBody(http.MethodPost, "{}"), sitetest.Header("Content-Type", "text/plain")).Expect(t, http.StatusUnsupportedMediaType, "UNSUPPORTED")
}

// TestGroupTokenCreatesNoMore checks that a token created with an access token
// has at most the rights and the lifetime of that one.
func TestGroupTokenCreatesNoMore(t *testing.T) {
	s := sitetest.StartWithAdmin(t, sitetest.Users("carol"), sitetest.AcmeRoles)
	path := "/acme/dependency_proxy/tokens"
	create := func(args ...string) string {
		secret, _ := s.CreateToken(append(args, "--scope", "pull,manage", "--lifetime", "2h")...)
		return secret
	}
	group := create("--group", "acme", "--role", "owner")
	s.Get(path, sitetest.Basic("ci", group)).Expect(t, http.StatusOK, "")
	s.Get(path, sitetest.Basic("ci", group), sitetest.JSONBody(http.MethodPost, `{"kind":"group","role":"owner"}`)).Expect(t, http.StatusBadRequest, "UNSUPPORTED")
	s.Get(path, sitetest.Bearer(s.TokenFor("ci", group)), sitetest.JSONBody(http.MethodPost, "{}")).Expect(t, http.StatusBadRequest, "UNSUPPORTED")
	personal := create("--account", "carol")
	s.Get(path, sitetest.Basic("ci", personal), sitetest.JSONBody(http.MethodPost, `{"lifetime":"3h"}`)).Expect(t, http.StatusBadRequest, "UNSUPPORTED")
	for _, body := range []string{"{}", `{"lifetime":"1h"}`} {
		a := s.Get(path, sitetest.Basic("ci", personal), sitetest.JSONBody(http.MethodPost, body)).Expect(t, http.StatusCreated, "")
		var made struct {
			Token   string
			Expires time.Time
		}
		if err := json.Unmarshal(a.Data, &made); err != nil || time.Until(made.Expires) > 2*time.Hour {
			t.Errorf("got %s, error %v; want a token for 2h at most", a.Data, err)
		}
		s.AddSecrets(made.Token)
	}
	weak := create("--group", "acme", "--role", "maintainer")
	s.Get(path, sitetest.Basic("ci", weak)).Expect(t, http.StatusForbidden, "DENIED")
}
