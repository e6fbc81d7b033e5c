package login

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestSeveralAuthorizationHeaders checks that a request with two Authorization
// headers is refused at each endpoint with a login, even if one of them is
// valid.
func TestSeveralAuthorizationHeaders(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.AcmeRoles, sitetest.Private("team", "alice"), sitetest.Visible("open", directory.Public), sitetest.Hub(up))
	token, other := "Bearer "+s.Token("alice"), "Bearer x.y.z"
	_, login, _ := strings.Cut(fmt.Sprint(basicHeader("alice")), " ")
	login = "Basic " + login
	up.Reset()
	for _, pair := range [][]string{{token, other}, {other, token}, {login, other}, {token, token}, {login, "Basic eDp4"}, {"", token}} {
		both := func(r *http.Request) { r.Header["Authorization"] = pair }
		for _, path := range []string{"/v2/", sitetest.ManifestPath("team", "alpine", "3.20"), sitetest.ManifestPath("open", "alpine", "3.20"), sitetest.Auth, "/acme/dependency_proxy", "/acme/dependency_proxy/tokens"} {
			a := s.Get(path, both).Expect(t, http.StatusBadRequest, "UNSUPPORTED").Has(t, "WWW-Authenticate", "").Has(t, "Content-Type", "application/json")
			if _, message := a.Problem(); !strings.Contains(message, "several Authorization headers") {
				t.Errorf("%s: got the message %q, want one about several headers", path, message)
			}
		}
		s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("alice", sitetest.PasswordOf("alice"))), both).Expect(t, http.StatusBadRequest, "UNSUPPORTED")
		s.Get("/acme/dependency_proxy/cache", sitetest.Method(http.MethodDelete), both).Expect(t, http.StatusBadRequest, "UNSUPPORTED")
	}
	s.Get("/v2/", sitetest.Header("Authorization", token)).Expect(t, http.StatusOK, "")
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v to upstream, want none", counts)
	}
}

// basicHeader returns the Authorization header of an account.
func basicHeader(name string) string {
	r := &http.Request{Header: make(http.Header)}
	sitetest.As(name)(r)
	return r.Header.Get("Authorization")
}
