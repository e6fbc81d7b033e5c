package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestSeveralAuthorizationHeaders checks that a request with two Authorization
// headers is refused at each endpoint with a login, even if one of them is
// valid.
func TestSeveralAuthorizationHeaders(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, users("alice", "bob"), acmeRoles, private("team", "alice"), visible("open", directory.Public), hub(up))
	token, other := "Bearer "+s.token("alice"), "Bearer x.y.z"
	_, login, _ := strings.Cut(fmt.Sprint(basicHeader("alice")), " ")
	login = "Basic " + login
	up.Reset()
	for _, pair := range [][]string{{token, other}, {other, token}, {login, other}, {token, token}, {login, "Basic eDp4"}, {"", token}} {
		both := func(r *http.Request) { r.Header["Authorization"] = pair }
		for _, path := range []string{"/v2/", manifestPath("team", "alpine", "3.20"), manifestPath("open", "alpine", "3.20"), auth, "/acme/dependency_proxy", "/acme/dependency_proxy/tokens"} {
			a := s.get(path, both).expect(t, http.StatusBadRequest, "UNSUPPORTED").has(t, "WWW-Authenticate", "").has(t, "Content-Type", "application/json")
			if _, message := a.problem(); !strings.Contains(message, "several Authorization headers") {
				t.Errorf("%s: got the message %q, want one about several headers", path, message)
			}
		}
		s.get("/jwt/auth", form(loginForm("alice", passwordOf("alice"))), both).expect(t, http.StatusBadRequest, "UNSUPPORTED")
		s.get("/acme/dependency_proxy/cache", method(http.MethodDelete), both).expect(t, http.StatusBadRequest, "UNSUPPORTED")
	}
	s.get("/v2/", header("Authorization", token)).expect(t, http.StatusOK, "")
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v to upstream, want none", counts)
	}
}

// basicHeader returns the Authorization header of an account.
func basicHeader(name string) string {
	r := &http.Request{Header: make(http.Header)}
	as(name)(r)
	return r.Header.Get("Authorization")
}
