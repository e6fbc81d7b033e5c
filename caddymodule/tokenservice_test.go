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
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestTokenResponse checks that the token response has the fields and types
// that clients read.
func TestTokenResponse(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), "token {\n lifetime 5m\n}")
	scope := "repository:acme/dependency_proxy/containers/alpine:pull"
	get := s.Get(sitetest.Auth+"&account=alice&client_id=docker&offline_token=true&scope="+url.QueryEscape(scope), sitetest.As("alice"))
	post := s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("alice", sitetest.PasswordOf("alice"), "access_type", "offline", "scope", scope)))
	for _, a := range []sitetest.Answer{get, post} {
		a.Expect(t, http.StatusOK, "").Has(t, "Content-Type", "application/json").Has(t, "Cache-Control", "no-store")
		a.Has(t, "Docker-Distribution-Api-Version", "").Has(t, "WWW-Authenticate", "")
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(a.Data, &fields); err != nil {
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
		at, err := time.Parse(time.RFC3339, a.Tokens().IssuedAt)
		if err != nil || time.Since(at) > time.Minute || time.Until(at) > 0 || at.Location() != time.UTC {
			t.Errorf("got issued_at %s, error %v; want the present time in UTC", fields["issued_at"], err)
		}
		s.Get("/v2/", sitetest.Bearer(a.Tokens().Token)).Expect(t, http.StatusOK, "")
	}
	if p := post.Tokens(); p.TokenType != "Bearer" || p.Scope != scope {
		t.Errorf("by POST: got type %q and scope %q, want Bearer and %q", p.TokenType, p.Scope, scope)
	}
}

// TestTokenContainsIdentityOnly checks that a token contains the identity and
// no permissions.
func TestTokenContainsIdentityOnly(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	raw := s.Get(sitetest.Auth+"&scope=repository:acme/dependency_proxy/containers/alpine:pull,push", sitetest.As("alice")).Tokens().Token
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if claims["sub"] != "alice" || claims["aud"] != service || claims["iss"] != s.URL {
		t.Errorf("got the claims %v, want sub alice, aud %s and iss %s", claims, service, s.URL)
	}
	for _, word := range []string{"acme", "access", "pull", sitetest.Hash(sitetest.PasswordOf("alice")), sitetest.PasswordOf("alice")} {
		if strings.Contains(string(payload), word) {
			t.Errorf("got %q in the token, want the identity only: %s", word, payload)
		}
	}
}

// TestWrongLoginMessages checks that a wrong name and a wrong password get the
// same answer.
func TestWrongLoginMessages(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public))
	text := ""
	for _, login := range [][2]string{{"alice", "wrong"}, {"nobody", sitetest.PasswordOf("alice")}, {"", ""}, {"alice", ""}, {"ALICE", sitetest.PasswordOf("alice")}, {"alice\x00", sitetest.PasswordOf("alice")}} {
		basic := func(r *http.Request) { r.SetBasicAuth(login[0], login[1]) }
		for _, a := range []sitetest.Answer{
			s.Get(sitetest.Auth, basic), s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm(login[0], login[1]))), s.Get("/v2/", basic),
		} {
			a.Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			if _, message := a.Problem(); text != "" && message != text {
				t.Errorf("%q: got the message %q, want %q", login, message, text)
			} else {
				text = message
			}
		}
		s.Get(sitetest.Auth, basic).Has(t, "Cache-Control", "no-store").Has(t, "Content-Type", "application/json").Has(t, "WWW-Authenticate", sitetest.BasicChallenge)
		s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm(login[0], login[1]))).Has(t, "WWW-Authenticate", sitetest.BasicChallenge)
	}
	if !strings.Contains(s.Logs(), "login refused") {
		t.Error("the log lacks the refused logins")
	}
}

// TestInvalidTokenRequests checks that a request that is not a valid login gets
// no token, not even an anonymous one.
func TestInvalidTokenRequests(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public))
	big := sitetest.LoginForm("alice", sitetest.PasswordOf("alice"), "scope", strings.Repeat("x", maxForm))
	without := func(field string) url.Values {
		fields := sitetest.LoginForm("alice", sitetest.PasswordOf("alice"))
		fields.Del(field)
		return fields
	}
	for name, row := range map[string]struct {
		a      sitetest.Answer
		status int
	}{
		"other service":         {s.Get("/jwt/auth?service=other", sitetest.As("alice")), 400},
		"other service by POST": {s.Get("/jwt/auth", sitetest.Form(url.Values{"service": {"other"}, "grant_type": {"password"}})), 400},
		"no service":            {s.Get("/jwt/auth", sitetest.As("alice")), 200},
		"no service by POST":    {s.Get("/jwt/auth", sitetest.Form(without("service"))), 200},
		"no grant":              {s.Get("/jwt/auth", sitetest.Form(without("grant_type"))), 400},
		"other grant":           {s.Get("/jwt/auth", sitetest.Form(url.Values{"grant_type": {"client_credentials"}})), 400},
		"no password":           {s.Get("/jwt/auth", sitetest.Form(without("password"))), 401},
		"no user":               {s.Get("/jwt/auth", sitetest.Form(without("username"))), 401},
		"too much":              {s.Get("/jwt/auth", sitetest.Form(big)), 400},
		"JSON":                  {s.Get("/jwt/auth", sitetest.Form(without("")), sitetest.Header("Content-Type", "application/json")), 400},
		"no type":               {s.Get("/jwt/auth", sitetest.Form(without("")), func(r *http.Request) { r.Header.Del("Content-Type") }), 400},
		"bad escape":            {s.Get("/jwt/auth", sitetest.Form(without("")), func(r *http.Request) { *r = *withBadEscape(r) }), 400},
		"refresh without token": {s.Get("/jwt/auth", sitetest.Form(url.Values{"grant_type": {"refresh_token"}})), 401},
		"other scheme":          {s.Get(sitetest.Auth, sitetest.Header("Authorization", "Digest x")), 401},
		"broken Basic":          {s.Get(sitetest.Auth, sitetest.Header("Authorization", "Basic !!!")), 401},
		"a token":               {s.Get(sitetest.Auth, sitetest.Bearer(s.Token("alice"))), 401},
		"login in the query":    {s.Get(sitetest.Auth + "&grant_type=password&username=alice&password=x"), 200}, // an anonymous token
		"HEAD":                  {s.Head(sitetest.Auth, sitetest.As("alice")), 405},
	} {
		code := map[int]string{200: "", 400: "UNSUPPORTED", 401: "UNAUTHORIZED", 405: "UNSUPPORTED"}[row.status]
		t.Run(name, func(t *testing.T) { row.a.Expect(t, row.status, code).Has(t, "Content-Type", "application/json") })
	}
}

// withBadEscape returns a request whose form has an invalid escape.
func withBadEscape(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	sitetest.Form(nil)(r)
	body := "grant_type=password&username=%zz"
	r.Body, r.ContentLength = http.NoBody, 0
	r.URL.RawQuery = body
	return r
}

// TestScopes checks that the requested scope decides nothing, and that no scope
// is an error.
func TestScopes(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
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
		token := s.Get(sitetest.Auth+"&"+scopes, sitetest.As("alice")).Expect(t, http.StatusOK, "").Tokens().Token
		s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.Bearer(token)).Expect(t, http.StatusOK, "")

		query, err := url.ParseQuery(scopes)
		if err != nil {
			t.Fatal(err)
		}
		fields := sitetest.LoginForm("alice", sitetest.PasswordOf("alice"))
		fields["scope"] = query["scope"]
		if got := s.Get("/jwt/auth", sitetest.Form(fields)).Expect(t, http.StatusOK, "").Tokens().Scope; got != granted {
			t.Errorf("%q: got scope %q, want %q", scopes, got, granted)
		}
	}
}

// TestRefreshTokens checks that refresh tokens are issued only if they are
// enabled and requested, and can only buy new tokens.
func TestRefreshTokens(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	lines := []string{sitetest.Private("acme", "alice"), sitetest.Hub(up), sitetest.Visible("open", directory.Public)}
	on := append([]string{sitetest.Users("alice"), "token {\n refresh_tokens on\n}"}, lines...)
	s := sitetest.Start(t, on...)
	for name, a := range map[string]sitetest.Answer{
		"not asked for":         s.Get(sitetest.Auth, sitetest.As("alice")),
		"refused":               s.Get(sitetest.Auth+"&offline_token=false", sitetest.As("alice")),
		"not asked for by POST": s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("alice", sitetest.PasswordOf("alice")))),
		"online":                s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("alice", sitetest.PasswordOf("alice"), "access_type", "online"))),
		"nobody's":              s.Get(sitetest.Auth + "&offline_token=true"),
	} {
		if a.Expect(t, http.StatusOK, ""); a.Tokens().RefreshToken != "" {
			t.Errorf("%s: got a refresh token, want none", name)
		}
	}
	refreshForm := func(token string, more ...string) sitetest.RequestOption {
		fields := url.Values{"grant_type": {"refresh_token"}, "service": {service}, "client_id": {"docker"}, "refresh_token": {token}}
		for i := 0; i < len(more); i += 2 {
			fields.Set(more[i], more[i+1])
		}
		return sitetest.Form(fields)
	}
	var last string
	for _, a := range []sitetest.Answer{
		s.Get(sitetest.Auth+"&offline_token=true", sitetest.As("alice")), s.Get(sitetest.Auth+"&offline_token=1&account=alice", sitetest.As("alice")),
		s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("alice", sitetest.PasswordOf("alice"), "access_type", "offline"))),
	} {
		if last = a.Tokens().RefreshToken; last == "" {
			t.Fatalf("got %.100s, want a refresh token", a.Data)
		}
		s.Get("/v2/", sitetest.Bearer(last)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.Bearer(last)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		fresh := s.Get("/jwt/auth", refreshForm(last)).Expect(t, http.StatusOK, "").Tokens()
		if fresh.RefreshToken != "" || fresh.Token == last {
			t.Error("got a refresh token or the old token, want a new token only")
		}
		s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.Bearer(fresh.Token)).Expect(t, http.StatusOK, "")
		if s.Get("/jwt/auth", refreshForm(last, "access_type", "offline")).Tokens().RefreshToken == "" {
			t.Error("got no new refresh token, want one")
		}
	}
	for name, token := range map[string]string{"an access token": s.Token("alice"), "garbage": "x", "nothing": "", "cut": last[:len(last)-1]} {
		a := s.Get("/jwt/auth", refreshForm(token)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		if a.Tokens().Token != "" {
			t.Errorf("%s: got a token, want none", name)
		}
	}
	s.Get("/jwt/auth", refreshForm(last), sitetest.Host("other.example")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")

	// The current state of the account and of the configuration decides.
	s.Load(append([]string{"token {\n refresh_tokens on\n}", "user alice " + sitetest.Hash("another-password")}, lines...)...)
	s.Get("/jwt/auth", refreshForm(last)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Load(append([]string{sitetest.Users("alice")}, lines...)...)
	s.Get("/jwt/auth", refreshForm(last)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Load(on...)
	s.Get("/jwt/auth", refreshForm(last)).Expect(t, http.StatusOK, "")
}

// TestTokenServiceChallenge checks that each 401 of the token service, and no
// other response of it, has a Basic challenge and an unchanged body.
func TestTokenServiceChallenge(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), "blocked bob", "token {\n refresh_tokens on\n}")
	const wrong = `{"errors":[{"code":"UNAUTHORIZED","message":"wrong user name or password","detail":null}]}`
	for name, row := range map[string]struct {
		changes []sitetest.RequestOption
		body    string
	}{
		"no login":         {nil, `{"errors":[{"code":"UNAUTHORIZED","message":"log in with: docker login ` + s.Host + `","detail":null}]}`},
		"wrong password":   {[]sitetest.RequestOption{sitetest.Basic("alice", "wrong")}, wrong},
		"unknown":          {[]sitetest.RequestOption{sitetest.Basic("zoe", "wrong")}, wrong},
		"blocked":          {[]sitetest.RequestOption{sitetest.As("bob")}, wrong},
		"a bearer token":   {[]sitetest.RequestOption{sitetest.Bearer("x.y.z")}, ""},
		"no scheme":        {[]sitetest.RequestOption{sitetest.Header("Authorization", "x")}, ""},
		"POST":             {[]sitetest.RequestOption{sitetest.Form(sitetest.LoginForm("alice", "wrong"))}, wrong},
		"POST unknown":     {[]sitetest.RequestOption{sitetest.Form(sitetest.LoginForm("zoe", "wrong"))}, wrong},
		"POST bad refresh": {[]sitetest.RequestOption{sitetest.Form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x.y.z"}})}, ""},
	} {
		a := s.Get(sitetest.Auth, row.changes...).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED").Has(t, "WWW-Authenticate", sitetest.BasicChallenge)
		a.Has(t, "Content-Type", "application/json").Has(t, "Cache-Control", "no-store").Has(t, "Content-Length", fmt.Sprint(len(a.Data)))
		if row.body != "" && string(a.Data) != row.body {
			t.Errorf("%s: got %s, want %s", name, a.Data, row.body)
		}
	}
	s.Get(sitetest.Auth, sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "WWW-Authenticate", "")
	s.Get("/jwt/auth", sitetest.Form(url.Values{"grant_type": {"other"}})).Expect(t, http.StatusBadRequest, "UNSUPPORTED").Has(t, "WWW-Authenticate", "")
	s.Get("/jwt/keys").Expect(t, http.StatusOK, "").Has(t, "WWW-Authenticate", "")
}
