package caddymodule

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestGroupPermissions checks that the page, the purge and the tokens of a
// group ask for Basic credentials and require the right role.
func TestGroupPermissions(t *testing.T) {
	s := start(t, users("alice", "bob", "carol", "dave"), acmeRoles, private("acme/sub"), private("other", "alice"), visible("open", directory.Public), "admins dave")
	page, cache, tokens := "/acme/dependency_proxy", "/acme/dependency_proxy/cache", "/acme/dependency_proxy/tokens"
	for _, path := range []string{page, page + "/", tokens, "/none/dependency_proxy", "/open/dependency_proxy"} {
		s.get(path).expect(t, http.StatusUnauthorized, "UNAUTHORIZED").has(t, "WWW-Authenticate", basicChallenge).has(t, "Cache-Control", "no-store")
	}
	for name, may := range map[string]map[string]bool{
		"alice": {page: true}, "bob": {page: true, cache: true}, "carol": {page: true, cache: true, tokens: true}, "dave": {page: true, cache: true, tokens: true},
	} {
		for path, verb := range map[string]string{page: http.MethodGet, cache: http.MethodDelete, tokens: http.MethodGet} {
			for _, who := range []requestOption{as(name), bearer(s.token(name))} {
				a := s.get(path, method(verb), who)
				if may[path] {
					a.expect(t, map[string]int{page: 200, cache: 202, tokens: 200}[path], "")
				} else {
					a.expect(t, http.StatusForbidden, "DENIED")
				}
			}
		}
		s.get("/acme/sub/dependency_proxy", as(name)).expect(t, map[bool]int{true: 200, false: 403}[may[page]], map[bool]string{false: "DENIED"}[may[page]])
		s.get("/none/dependency_proxy", as(name)).expect(t, http.StatusForbidden, "DENIED")
	}
	s.get(page, as("carol"), header("Sec-Fetch-Site", "cross-site")).expect(t, http.StatusOK, "") // a link
	s.get(cache, method(http.MethodDelete), as("carol"), header("Sec-Fetch-Site", "cross-site")).expect(t, http.StatusForbidden, "DENIED")
	s.get(cache, as("carol")).expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED").has(t, "Allow", "DELETE")
	s.get(tokens, method(http.MethodPut), as("carol")).expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED").has(t, "Allow", "GET, POST")
	for _, path := range []string{"/dependency_proxyx", "/Acme/dependency_proxy", "/acme/dependency_proxy/else", "/acme/dependency_proxyx", "/acme/dependency_proxy/tokens/a/b", "/acme//dependency_proxy", "/%61cme/dependency_proxy"} {
		s.get(path).content(t, []byte("next handler"))
	}
}

// TestGroupTokens checks that an owner creates, lists and revokes the tokens of
// the own group only.
func TestGroupTokens(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, users("alice", "carol"), acmeRoles, "group other {\n owners alice\n}\n", hub(up))
	path := "/acme/dependency_proxy/tokens"
	made := s.get(path, as("carol"), jsonBody(http.MethodPost, `{"name":"runner","lifetime":"24h"}`)).expect(t, http.StatusCreated, "")
	var token struct {
		Token, ID, Kind string
		CreatedBy       string `json:"created_by"`
	}
	if err := json.Unmarshal(made.body, &token); err != nil || token.Kind != "deploy" || token.CreatedBy != "static:carol" {
		t.Fatalf("got %s, error %v; want a deploy token created by static:carol", made.body, err)
	}
	s.addSecrets(token.Token)
	pull := func(group string) answer {
		return s.get(manifestPath(group, "alpine", "3.20"), basic("ci", token.Token))
	}
	pull("acme").expect(t, http.StatusOK, "")
	pull("other").expect(t, http.StatusForbidden, "DENIED")
	s.get(path, basic("ci", token.Token)).expect(t, http.StatusForbidden, "DENIED") // a deploy token can only pull
	if list := s.get(path, as("carol")).expect(t, http.StatusOK, ""); !strings.Contains(string(list.body), token.ID) || strings.Contains(string(list.body), token.Token) {
		t.Errorf("got the list %s, want the ID and not the token", list.body)
	}
	if list := s.get("/other/dependency_proxy/tokens", as("alice")).expect(t, http.StatusOK, ""); strings.Contains(string(list.body), token.ID) {
		t.Errorf("got the list %s for another owner, want no token of acme", list.body)
	}
	s.get("/other/dependency_proxy/tokens/"+token.ID, method(http.MethodDelete), as("alice")).expect(t, http.StatusNotFound, "NAME_UNKNOWN")
	pull("acme").expect(t, http.StatusOK, "")
	s.get(path+"/"+token.ID, method(http.MethodDelete), as("carol")).expect(t, http.StatusOK, "")
	pull("acme").expect(t, http.StatusUnauthorized, "UNAUTHORIZED")

	for body, status := range map[string]int{
		`{`: 400, `{"kind":"personal"}`: 400, `{"kind":"group","role":"king"}`: 400, `{"account":"alice"}`: 400, `{"groups":["other"]}`: 400, `{"lifetime":"1s"}`: 400,
	} {
		s.get(path, as("carol"), jsonBody(http.MethodPost, body)).expect(t, status, "UNSUPPORTED")
	}
	s.get(path, as("carol"), jsonBody(http.MethodPost, "{}"), header("Content-Type", "text/plain")).expect(t, http.StatusUnsupportedMediaType, "UNSUPPORTED")
}

// TestGroupTokenCreatesNoMore checks that a token created with an access token
// has at most the rights and the lifetime of that one.
func TestGroupTokenCreatesNoMore(t *testing.T) {
	s := startWithAdmin(t, users("carol"), acmeRoles)
	path := "/acme/dependency_proxy/tokens"
	create := func(args ...string) string {
		secret, _ := s.createToken(append(args, "--scope", "pull,manage", "--lifetime", "2h")...)
		return secret
	}
	group := create("--group", "acme", "--role", "owner")
	s.get(path, basic("ci", group)).expect(t, http.StatusOK, "")
	s.get(path, basic("ci", group), jsonBody(http.MethodPost, `{"kind":"group","role":"owner"}`)).expect(t, http.StatusBadRequest, "UNSUPPORTED")
	s.get(path, bearer(s.tokenFor("ci", group)), jsonBody(http.MethodPost, "{}")).expect(t, http.StatusBadRequest, "UNSUPPORTED")
	personal := create("--account", "carol")
	s.get(path, basic("ci", personal), jsonBody(http.MethodPost, `{"lifetime":"3h"}`)).expect(t, http.StatusBadRequest, "UNSUPPORTED")
	for _, body := range []string{"{}", `{"lifetime":"1h"}`} {
		a := s.get(path, basic("ci", personal), jsonBody(http.MethodPost, body)).expect(t, http.StatusCreated, "")
		var made struct {
			Token   string
			Expires time.Time
		}
		if err := json.Unmarshal(a.body, &made); err != nil || time.Until(made.Expires) > 2*time.Hour {
			t.Errorf("got %s, error %v; want a token for 2h at most", a.body, err)
		}
		s.addSecrets(made.Token)
	}
	weak := create("--group", "acme", "--role", "maintainer")
	s.get(path, basic("ci", weak)).expect(t, http.StatusForbidden, "DENIED")
}
