package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestTokenResponse checks that the token response has the fields and types
// that clients read.
func TestTokenResponse(t *testing.T) {
	s := start(t, users("alice"), private("acme", "alice"), "token {\n lifetime 5m\n}")
	scope := "repository:acme/dependency_proxy/containers/alpine:pull"
	get := s.get(auth+"&account=alice&client_id=docker&offline_token=true&scope="+url.QueryEscape(scope), as("alice"))
	post := s.get("/jwt/auth", form(loginForm("alice", passwordOf("alice"), "access_type", "offline", "scope", scope)))
	for _, a := range []answer{get, post} {
		a.expect(t, http.StatusOK, "").has(t, "Content-Type", "application/json").has(t, "Cache-Control", "no-store")
		a.has(t, "Docker-Distribution-Api-Version", "").has(t, "WWW-Authenticate", "")
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(a.body, &fields); err != nil {
			t.Fatal(err)
		}
		if string(fields["expires_in"]) != "300" {
			t.Errorf("got expires_in %s, want 300", fields["expires_in"])
		}
		if string(fields["token"]) != string(fields["access_token"]) || strings.Count(string(fields["token"]), ".") != 2 {
			t.Errorf("got token and access_token of %d and %d bytes, want the same JWT", len(fields["token"]), len(fields["access_token"]))
		}
		if _, ok := fields["refresh_token"]; ok {
			t.Error("got a refresh token, want none unless enabled")
		}
		at, err := time.Parse(time.RFC3339, a.tokens().IssuedAt)
		if err != nil || time.Since(at) > time.Minute || time.Until(at) > 0 || at.Location() != time.UTC {
			t.Errorf("got issued_at %s, error %v; want the present time in UTC", fields["issued_at"], err)
		}
		s.get("/v2/", bearer(a.tokens().Token)).expect(t, http.StatusOK, "")
	}
	if p := post.tokens(); p.TokenType != "Bearer" || p.Scope != scope {
		t.Errorf("by POST: got type %q and scope %q, want Bearer and %q", p.TokenType, p.Scope, scope)
	}
}

// TestTokenContainsIdentityOnly checks that a token contains the identity and
// no permissions.
func TestTokenContainsIdentityOnly(t *testing.T) {
	s := start(t, users("alice"), private("acme", "alice"))
	raw := s.get(auth+"&scope=repository:acme/dependency_proxy/containers/alpine:pull,push", as("alice")).tokens().Token
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if claims["sub"] != "alice" || claims["aud"] != service || claims["iss"] != s.url {
		t.Errorf("got the claims %v, want sub alice, aud %s and iss %s", claims, service, s.url)
	}
	for _, word := range []string{"acme", "access", "pull", hash(passwordOf("alice")), passwordOf("alice")} {
		if strings.Contains(string(payload), word) {
			t.Errorf("got %q in the token, want the identity only: %s", word, payload)
		}
	}
}

// TestWrongLoginMessages checks that a wrong name and a wrong password get the
// same answer.
func TestWrongLoginMessages(t *testing.T) {
	s := start(t, users("alice"), private("acme", "alice"), visible("open", directory.Public))
	text := ""
	for _, login := range [][2]string{{"alice", "wrong"}, {"nobody", passwordOf("alice")}, {"", ""}, {"alice", ""}, {"ALICE", passwordOf("alice")}, {"alice\x00", passwordOf("alice")}} {
		basic := func(r *http.Request) { r.SetBasicAuth(login[0], login[1]) }
		for _, a := range []answer{
			s.get(auth, basic), s.get("/jwt/auth", form(loginForm(login[0], login[1]))), s.get("/v2/", basic),
		} {
			a.expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			if _, message := a.problem(); text != "" && message != text {
				t.Errorf("%q: got the message %q, want %q", login, message, text)
			} else {
				text = message
			}
		}
		s.get(auth, basic).has(t, "Cache-Control", "no-store").has(t, "Content-Type", "application/json").has(t, "WWW-Authenticate", basicChallenge)
		s.get("/jwt/auth", form(loginForm(login[0], login[1]))).has(t, "WWW-Authenticate", basicChallenge)
	}
	if !strings.Contains(s.logs(), "login refused") {
		t.Error("the log lacks the refused logins")
	}
}

// TestInvalidTokenRequests checks that a request that is not a valid login gets
// no token, not even an anonymous one.
func TestInvalidTokenRequests(t *testing.T) {
	s := start(t, users("alice"), private("acme", "alice"), visible("open", directory.Public))
	big := loginForm("alice", passwordOf("alice"), "scope", strings.Repeat("x", maxForm))
	without := func(field string) url.Values {
		fields := loginForm("alice", passwordOf("alice"))
		fields.Del(field)
		return fields
	}
	for name, row := range map[string]struct {
		a      answer
		status int
	}{
		"other service":         {s.get("/jwt/auth?service=other", as("alice")), 400},
		"other service by POST": {s.get("/jwt/auth", form(url.Values{"service": {"other"}, "grant_type": {"password"}})), 400},
		"no service":            {s.get("/jwt/auth", as("alice")), 200},
		"no service by POST":    {s.get("/jwt/auth", form(without("service"))), 200},
		"no grant":              {s.get("/jwt/auth", form(without("grant_type"))), 400},
		"other grant":           {s.get("/jwt/auth", form(url.Values{"grant_type": {"client_credentials"}})), 400},
		"no password":           {s.get("/jwt/auth", form(without("password"))), 401},
		"no user":               {s.get("/jwt/auth", form(without("username"))), 401},
		"too much":              {s.get("/jwt/auth", form(big)), 400},
		"JSON":                  {s.get("/jwt/auth", form(without("")), header("Content-Type", "application/json")), 400},
		"no type":               {s.get("/jwt/auth", form(without("")), func(r *http.Request) { r.Header.Del("Content-Type") }), 400},
		"bad escape":            {s.get("/jwt/auth", form(without("")), func(r *http.Request) { *r = *withBadEscape(r) }), 400},
		"refresh without token": {s.get("/jwt/auth", form(url.Values{"grant_type": {"refresh_token"}})), 401},
		"other scheme":          {s.get(auth, header("Authorization", "Digest x")), 401},
		"broken Basic":          {s.get(auth, header("Authorization", "Basic !!!")), 401},
		"a token":               {s.get(auth, bearer(s.token("alice"))), 401},
		"login in the query":    {s.get(auth + "&grant_type=password&username=alice&password=x"), 200}, // an anonymous token
		"HEAD":                  {s.head(auth, as("alice")), 405},
	} {
		code := map[int]string{200: "", 400: "UNSUPPORTED", 401: "UNAUTHORIZED", 405: "UNSUPPORTED"}[row.status]
		t.Run(name, func(t *testing.T) { row.a.expect(t, row.status, code).has(t, "Content-Type", "application/json") })
	}
}

// withBadEscape returns a request whose form has an invalid escape.
func withBadEscape(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	form(nil)(r)
	body := "grant_type=password&username=%zz"
	r.Body, r.ContentLength = http.NoBody, 0
	r.URL.RawQuery = body
	return r
}

// TestScopes checks that the requested scope decides nothing, and that no scope
// is an error.
func TestScopes(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	ours := "repository:acme/dependency_proxy/containers/alpine:pull"
	for scopes, granted := range map[string]string{
		"":                   "",
		"scope=":             "",
		"scope=" + ours:      ours,
		"scope=" + ours[:20]: "",
		"scope=" + ours + ",push&scope=repository:library/alpine:pull":            ours,
		"scope=" + ours + "+repository:x/dependency_proxy/containers/y:push,pull": ours + " repository:x/dependency_proxy/containers/y:pull",
		"scope=" + ours + "&scope=" + ours:                                        ours,
		"scope=registry:catalog:*&scope=%00&scope=repository::&scope=:::":         "",
		"scope=repository:acme/dependency_proxy/containers/alpine:push":           "",
	} {
		token := s.get(auth+"&"+scopes, as("alice")).expect(t, http.StatusOK, "").tokens().Token
		s.get(manifestPath("acme", "alpine", "3.20"), bearer(token)).expect(t, http.StatusOK, "")

		query, err := url.ParseQuery(scopes)
		if err != nil {
			t.Fatal(err)
		}
		fields := loginForm("alice", passwordOf("alice"))
		fields["scope"] = query["scope"]
		if got := s.get("/jwt/auth", form(fields)).expect(t, http.StatusOK, "").tokens().Scope; got != granted {
			t.Errorf("%q: got scope %q, want %q", scopes, got, granted)
		}
	}
}

// TestRefreshTokens checks that refresh tokens are issued only if they are
// enabled and requested, and can only buy new tokens.
func TestRefreshTokens(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	lines := []string{private("acme", "alice"), hub(up), visible("open", directory.Public)}
	on := append([]string{users("alice"), "token {\n refresh_tokens on\n}"}, lines...)
	s := start(t, on...)
	for name, a := range map[string]answer{
		"not asked for":         s.get(auth, as("alice")),
		"refused":               s.get(auth+"&offline_token=false", as("alice")),
		"not asked for by POST": s.get("/jwt/auth", form(loginForm("alice", passwordOf("alice")))),
		"online":                s.get("/jwt/auth", form(loginForm("alice", passwordOf("alice"), "access_type", "online"))),
		"nobody's":              s.get(auth + "&offline_token=true"),
	} {
		if a.expect(t, http.StatusOK, ""); a.tokens().RefreshToken != "" {
			t.Errorf("%s: got a refresh token, want none", name)
		}
	}
	refreshForm := func(token string, more ...string) requestOption {
		fields := url.Values{"grant_type": {"refresh_token"}, "service": {service}, "client_id": {"docker"}, "refresh_token": {token}}
		for i := 0; i < len(more); i += 2 {
			fields.Set(more[i], more[i+1])
		}
		return form(fields)
	}
	var last string
	for _, a := range []answer{
		s.get(auth+"&offline_token=true", as("alice")), s.get(auth+"&offline_token=1&account=alice", as("alice")),
		s.get("/jwt/auth", form(loginForm("alice", passwordOf("alice"), "access_type", "offline"))),
	} {
		if last = a.tokens().RefreshToken; last == "" {
			t.Fatalf("got %.100s, want a refresh token", a.body)
		}
		s.get("/v2/", bearer(last)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		s.get(manifestPath("acme", "alpine", "3.20"), bearer(last)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		fresh := s.get("/jwt/auth", refreshForm(last)).expect(t, http.StatusOK, "").tokens()
		if fresh.RefreshToken != "" || fresh.Token == last {
			t.Error("got a refresh token or the old token, want a new token only")
		}
		s.get(manifestPath("acme", "alpine", "3.20"), bearer(fresh.Token)).expect(t, http.StatusOK, "")
		if s.get("/jwt/auth", refreshForm(last, "access_type", "offline")).tokens().RefreshToken == "" {
			t.Error("got no new refresh token, want one")
		}
	}
	for name, token := range map[string]string{"an access token": s.token("alice"), "garbage": "x", "nothing": "", "cut": last[:len(last)-1]} {
		a := s.get("/jwt/auth", refreshForm(token)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		if a.tokens().Token != "" {
			t.Errorf("%s: got a token, want none", name)
		}
	}
	s.get("/jwt/auth", refreshForm(last), host("other.example")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")

	// The current state of the account and of the configuration decides.
	s.load(append([]string{"token {\n refresh_tokens on\n}", "user alice " + hash("another-password")}, lines...)...)
	s.get("/jwt/auth", refreshForm(last)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.load(append([]string{users("alice")}, lines...)...)
	s.get("/jwt/auth", refreshForm(last)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.load(on...)
	s.get("/jwt/auth", refreshForm(last)).expect(t, http.StatusOK, "")
}

// TestTokenServiceChallenge checks that each 401 of the token service, and no
// other response of it, has a Basic challenge and an unchanged body.
func TestTokenServiceChallenge(t *testing.T) {
	s := start(t, users("alice", "bob"), private("acme", "alice"), "blocked bob", "token {\n refresh_tokens on\n}")
	const wrong = `{"errors":[{"code":"UNAUTHORIZED","message":"wrong user name or password","detail":null}]}`
	for name, row := range map[string]struct {
		changes []requestOption
		body    string
	}{
		"no login":         {nil, `{"errors":[{"code":"UNAUTHORIZED","message":"log in with: docker login ` + s.host + `","detail":null}]}`},
		"wrong password":   {[]requestOption{basic("alice", "wrong")}, wrong},
		"unknown":          {[]requestOption{basic("zoe", "wrong")}, wrong},
		"blocked":          {[]requestOption{as("bob")}, wrong},
		"a bearer token":   {[]requestOption{bearer("x.y.z")}, ""},
		"no scheme":        {[]requestOption{header("Authorization", "x")}, ""},
		"POST":             {[]requestOption{form(loginForm("alice", "wrong"))}, wrong},
		"POST unknown":     {[]requestOption{form(loginForm("zoe", "wrong"))}, wrong},
		"POST bad refresh": {[]requestOption{form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x.y.z"}})}, ""},
	} {
		a := s.get(auth, row.changes...).expect(t, http.StatusUnauthorized, "UNAUTHORIZED").has(t, "WWW-Authenticate", basicChallenge)
		a.has(t, "Content-Type", "application/json").has(t, "Cache-Control", "no-store").has(t, "Content-Length", fmt.Sprint(len(a.body)))
		if row.body != "" && string(a.body) != row.body {
			t.Errorf("%s: got %s, want %s", name, a.body, row.body)
		}
	}
	s.get(auth, as("alice")).expect(t, http.StatusOK, "").has(t, "WWW-Authenticate", "")
	s.get("/jwt/auth", form(url.Values{"grant_type": {"other"}})).expect(t, http.StatusBadRequest, "UNSUPPORTED").has(t, "WWW-Authenticate", "")
	s.get("/jwt/keys").expect(t, http.StatusOK, "").has(t, "WWW-Authenticate", "")
}
