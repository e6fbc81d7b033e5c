package caddymodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// scopeOf returns the scope of an image of a group.
func scopeOf(group string) string { return "repository:" + group + infix + "alpine:pull" }

// hubScope is the scope that clients of a mirror send for the mirrored image.
const hubScope = "repository:library/alpine:pull"

// foreignLogins are the ways in which a client sends its login of another registry
// to the token service.
var foreignLogins = map[string]func(s *sitetest.Site, query url.Values) sitetest.Answer{
	"Basic": func(s *sitetest.Site, query url.Values) sitetest.Answer {
		return s.Get("/jwt/auth?"+query.Encode(), sitetest.Basic("hubuser", "hub-password"))
	},
	"Basic, name of an account": func(s *sitetest.Site, query url.Values) sitetest.Answer {
		return s.Get("/jwt/auth?"+query.Encode(), sitetest.Basic("alice", "hub-password"))
	},
	"password": func(s *sitetest.Site, query url.Values) sitetest.Answer {
		fields := sitetest.LoginForm("hubuser", "hub-password", "scope", strings.Join(query["scope"], " "), "access_type", "offline")
		return s.Get("/jwt/auth?"+url.Values{mirrorGroup: query[mirrorGroup]}.Encode(), sitetest.Form(fields))
	},
	"refresh token": func(s *sitetest.Site, query url.Values) sitetest.Answer {
		fields := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"hub-token"}, "service": {service}, "scope": {strings.Join(query["scope"], " ")}}
		return s.Get("/jwt/auth?"+url.Values{mirrorGroup: query[mirrorGroup]}.Encode(), sitetest.Form(fields))
	},
}

// TestIgnoredLogins checks for which scopes, and which group in the realm, a login is
// ignored.
func TestIgnoredLogins(t *testing.T) {
	h := &Handler{policy: access.NewPolicy([]access.Group{
		{Path: "acme"}, {Path: "house", Visibility: directory.Internal},
		{Path: "open", Visibility: directory.Public}, {Path: "open/more", Visibility: directory.Public},
		{Path: "a", Visibility: directory.Public}, {Path: "b", Visibility: directory.Public}, {Path: "c", Visibility: directory.Public},
	}, true, nil)}
	four := []string{scopeOf("open"), scopeOf("a"), scopeOf("b"), scopeOf("c")}
	for _, row := range []struct {
		scopes  []string
		group   string
		ignored bool
	}{
		{scopes: []string{scopeOf("open")}, ignored: true},
		{scopes: []string{scopeOf("open"), scopeOf("open/more"), scopeOf("open")}, ignored: true},
		{scopes: []string{scopeOf("open") + " " + hubScope}, ignored: true},
		{scopes: []string{hubScope, scopeOf("open"), "registry:catalog:*"}, ignored: true},
		{scopes: []string{hubScope}, group: "open", ignored: true},
		{scopes: []string{scopeOf("open")}, group: "acme", ignored: true},
		{scopes: four, ignored: true},
		{},
		{group: "open"},
		{scopes: []string{"x"}, group: "open"},
		{scopes: []string{hubScope}},
		{scopes: []string{hubScope}, group: "acme"},
		{scopes: []string{hubScope}, group: "none"},
		{scopes: []string{hubScope}, group: "OPEN"},
		{scopes: []string{scopeOf("acme")}},
		{scopes: []string{scopeOf("acme")}, group: "open"},
		{scopes: []string{scopeOf("OPEN")}, group: "open"},
		{scopes: []string{scopeOf("house")}},
		{scopes: []string{scopeOf("none")}},
		{scopes: []string{scopeOf("open/none")}},
		{scopes: []string{scopeOf("open"), scopeOf("acme")}},
		{scopes: []string{scopeOf("acme") + " " + scopeOf("open")}},
		{scopes: []string{scopeOf("open"), scopeOf("none")}},
		{scopes: []string{scopeOf("open"), scopeOf("OPEN")}},
		{scopes: append(four, scopeOf("acme"))},
		{scopes: append(four, scopeOf("open/more"))},
	} {
		query := url.Values{"scope": row.scopes}
		if row.group != "" {
			query.Set(mirrorGroup, row.group)
		}
		ex := &exchange{handler: h, r: httptest.NewRequest(http.MethodGet, "/jwt/auth?"+query.Encode(), nil), route: route{kind: authKind}}
		if got := ex.ignoresLogin(); got != row.ignored {
			t.Errorf("scopes %q, group %q: got %t, want %t", row.scopes, row.group, got, row.ignored)
		}
	}
}

// TestForeignLogin checks that each way to send a login to the token service leads to
// an anonymous token for a public group, and to 401 if another group is named too.
func TestForeignLogin(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("house", directory.Internal), sitetest.Visible("open", directory.Public), sitetest.Hub(up),
		"token {\n refresh_tokens on\n}")
	for name, send := range foreignLogins {
		for _, query := range []url.Values{
			{"service": {service}, "scope": {scopeOf("open"), hubScope}},
			{"service": {service}, "scope": {hubScope}, mirrorGroup: {"open"}},
		} {
			query["offline_token"] = []string{"true"}
			tokens := send(s, query).Expect(t, http.StatusOK, "").Tokens()
			if tokens.RefreshToken != "" {
				t.Errorf("%s: got a refresh token, want none for an anonymous client", name)
			}
			s.ExpectPull("open", http.StatusOK, sitetest.Bearer(tokens.Token))
			s.ExpectPull("acme", http.StatusForbidden, sitetest.Bearer(tokens.Token))
			s.ExpectPull("house", http.StatusForbidden, sitetest.Bearer(tokens.Token))
		}
		for _, query := range []url.Values{
			{"service": {service}, "scope": {scopeOf("open"), scopeOf("acme")}},
			{"service": {service}, "scope": {hubScope}, mirrorGroup: {"acme"}},
		} {
			send(s, query).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		}
	}
}

// TestForeignLoginUncounted checks that a login that is sent with requests for a
// public group is answered at once, counts as no failed login, reaches no directory
// and leaves no trace in the log, and that no throttle keeps it from being ignored.
func TestForeignLoginUncounted(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, "directory elsewhere", sitetest.Private("acme", "elsewhere:zoe"), sitetest.Visible("open", directory.Public), sitetest.Hub(up))
	sitetest.ElsewhereAsked.Store(0)
	query := url.Values{"service": {service}, "scope": {scopeOf("open")}}
	for range 2 * sitetest.DocumentedAddressBurst {
		s.Get("/jwt/auth?"+query.Encode(), sitetest.Basic("nobody-hub", "hub-password")).Expect(t, http.StatusOK, "")
		s.ExpectPull("open", http.StatusOK, sitetest.Basic("nobody-hub", "hub-password"))
	}
	if n := sitetest.ElsewhereAsked.Load(); n != 0 {
		t.Errorf("got %d questions to the directory, want none", n)
	}
	if logs := s.Logs(); strings.Contains(logs, "nobody-hub") || strings.Contains(logs, `"event":"login`) {
		t.Errorf("got log lines about the login, want none:\n%s", logs)
	}
	s.Get(sitetest.Auth, sitetest.Basic("nobody-hub", "hub-password")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	sitetest.Concurrently(sitetest.DocumentedAddressBurst, func(i int) { s.Get(sitetest.Auth, sitetest.Basic(fmt.Sprint("nobody", i%3), fmt.Sprint("wrong", i))) })
	s.Get(sitetest.Auth, sitetest.Basic("nobody-hub", "hub-password")).Expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	s.ExpectPull("open", http.StatusOK, sitetest.Basic("nobody-hub", "hub-password"))
}

// TestForeignLoginOnPaths checks that the login on a path of a public group is
// ignored if the path is one that anonymous clients may use.
func TestForeignLoginOnPaths(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public), sitetest.Hub(up))
	hubLogin := sitetest.Basic("hubuser", "hub-password")
	mirror := "/open" + infix + "v2/"
	for _, path := range []string{
		sitetest.ManifestPath("open", "alpine", "3.20"), sitetest.BlobPath("open", "alpine", image.Layers[0]), mirror, mirror[:len(mirror)-1],
		mirror + "library/alpine/manifests/3.20?ns=docker.io", "/v2/open" + infix + "alpine/tags/list",
	} {
		s.Get(path, hubLogin).Expect(t, http.StatusOK, "")
	}
	for _, path := range []string{
		"/v2/", "/v2/?scope=" + url.QueryEscape(scopeOf("open")), "/dependency_proxy/health?scope=" + url.QueryEscape(scopeOf("open")),
		"/acme" + infix + "v2/", "/none" + infix + "v2/", "/OPEN" + infix + "v2/", sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.ManifestPath("none", "alpine", "3.20"),
		"/open/dependency_proxy", "/open/dependency_proxy/tokens",
	} {
		s.Get(path, hubLogin).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	s.Get("/open/dependency_proxy/cache", sitetest.Method(http.MethodDelete), hubLogin).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestForeignBearerToken checks that a token that this site has not issued is
// refused for a public group too, with the challenge that leads to a new one, and
// that a token of the site identifies its account there.
func TestForeignBearerToken(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), "group open {\n visibility public\n deny docker.io/**\n}", sitetest.Hub(up))
	a := s.Get(sitetest.ManifestPath("open", "alpine", "3.20"), sitetest.Bearer("x.y.z")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	a.Has(t, "WWW-Authenticate", `Bearer realm="`+s.URL+`/jwt/auth",service="dependency_proxy",scope="`+scopeOf("open")+`",error="invalid_token"`)
	token := s.Token("alice")
	s.Get(sitetest.ManifestPath("open", "alpine", "3.20"), sitetest.Bearer(token)).Expect(t, http.StatusForbidden, "DENIED")
	if logs := s.Logs(); !strings.Contains(logs, `"event":"denied","account":"alice","directory":"static"`) {
		t.Errorf("got the log\n%s\nwant the account of the token in the line about the refusal", logs)
	}
}

// TestMirrorPing checks that the challenge on the path of a mirror names the group in
// its realm, whether or not there is such a group.
func TestMirrorPing(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public))
	for _, group := range []string{"open", "acme", "none", "acme/none"} {
		s.Get("/"+group+infix+"v2/").Expect(t, http.StatusUnauthorized, "UNAUTHORIZED").
			Has(t, "WWW-Authenticate", `Bearer realm="`+s.URL+`/jwt/auth?group=`+url.QueryEscape(group)+`",service="dependency_proxy"`)
	}
	for _, path := range []string{"/v2/", "/OPEN" + infix + "v2/", infix + "v2/"} {
		s.Get(path).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED").
			Has(t, "WWW-Authenticate", `Bearer realm="`+s.URL+`/jwt/auth",service="dependency_proxy"`)
	}
}

// TestForeignLoginWithGitLabGroups checks that a foreign login is ignored for a group
// of GitLab exactly if the group is public for anonymous clients, and that it is
// checked while GitLab cannot answer.
func TestForeignLoginWithGitLabGroups(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	s := sitetest.GitlabSite(t, g, sitetest.Users("carol"), sitetest.GitlabAt(t, g, "members_only off"))
	foreign := sitetest.Basic("carol", "hub-password")
	s.ExpectPull("open", http.StatusOK, foreign)
	for _, group := range []string{"acme", "inner", "none"} {
		s.ExpectPull(group, http.StatusUnauthorized, foreign)
	}
	s.Load(sitetest.Users("carol"), sitetest.GitlabAt(t, g), sitetest.Visible("pub", directory.Public))
	s.ExpectPull("open", http.StatusUnauthorized, foreign)
	s.Load(sitetest.Users("carol"), sitetest.GitlabAt(t, g, "members_only off"))
	g.Groups[99] = &gitlabtest.Group{Path: "not-asked-before", Visibility: "public"}
	g.Fault = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	s.ExpectPull("not-asked-before", http.StatusUnauthorized, foreign)
}
