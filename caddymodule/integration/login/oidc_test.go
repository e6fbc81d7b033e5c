package login

import (
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/oidctest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestOIDCDirectory checks that the token service and the registry accept an ID
// token as a login.
func TestOIDCDirectory(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	issuer := oidctest.New(t)
	s := sitetest.Start(t, sitetest.Users("alice"), issuer.Directory("map repository_owner acme -> acme", "require ref refs/heads/*"),
		sitetest.Private("acme", "alice"), sitetest.Private("acme/platform"), sitetest.Private("other"), sitetest.Hub(up), "token {\n refresh_tokens on\n}")
	raw := issuer.Token()
	s.AddSecrets(raw, base64.StdEncoding.EncodeToString([]byte("ci:"+raw)), strings.Split(raw, ".")[2])
	if issuer.KeysAsked() != 0 {
		t.Error("got a request of the issuer's keys before the first login, want none")
	}
	posted := s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("whoever", raw))).Expect(t, http.StatusOK, "").Tokens()
	offline := s.Get(sitetest.Auth+"&offline_token=true", sitetest.IDToken(raw)).Expect(t, http.StatusOK, "").Tokens()
	refreshed := s.Get("/jwt/auth", sitetest.Form(map[string][]string{"grant_type": {"refresh_token"}, "refresh_token": {offline.RefreshToken}})).
		Expect(t, http.StatusOK, "").Tokens()
	for _, who := range []sitetest.RequestOption{sitetest.IDToken(raw), sitetest.Bearer(posted.Token), sitetest.Bearer(offline.Token), sitetest.Bearer(refreshed.Token)} {
		s.Get("/v2/", who).Content(t, []byte("{}"))
		sitetest.Pull(t, s, "acme", "alpine", "3.20", who)
		sitetest.Pull(t, s, "acme/platform", "alpine", "3.20", who)
		s.Get(sitetest.ManifestPath("other", "alpine", "3.20"), who).Expect(t, http.StatusForbidden, "DENIED")
	}
	payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(posted.Token, ".")[1])
	if text := string(payload); !strings.Contains(text, `\"ref\":\"refs/heads/main\"`) || strings.Contains(text, "f0c1") || strings.Contains(text, "team/platform") {
		t.Errorf("got the token %s, want only claims of rules", text)
	}
	if logs := s.Logs(); !strings.Contains(logs, `"user_id":"repo:acme/app:ref:refs/heads/main"`) {
		t.Error("the access log lacks the account")
	}
	if asked := issuer.KeysAsked(); asked != 1 {
		t.Errorf("got %d requests of the issuer's keys, want 1", asked)
	}
}

// TestOIDCNames checks that the name that an issuer gives an account is a name
// in its directory, and not the account of another directory.
func TestOIDCNames(t *testing.T) {
	issuer := oidctest.New(t)
	raw := issuer.Token(oidctest.Claim("sub", "alice"))
	open := "map repository_owner acme -> acme"
	s := sitetest.Start(t, sitetest.Users("alice"), issuer.Directory(open), sitetest.Private("acme"), sitetest.Private("secret", "alice"), "admins static:alice")
	s.AddSecrets(raw)
	s.Get(sitetest.ManifestPath("secret", "alpine", "3.20"), sitetest.IDToken(raw)).Expect(t, http.StatusForbidden, "DENIED")
	s.Load(sitetest.Users("alice"), issuer.Directory(open), sitetest.Private("acme"), sitetest.Private("secret", "oidc:alice"), "upstream docker.io {\n endpoint http://127.0.0.1:1\n}")
	s.Get(sitetest.ManifestPath("secret", "alpine", "3.20"), sitetest.IDToken(raw)).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE") // allowed, but nothing listens there
	for blocked, status := range map[string]int{"alice": 401, "ALICE": 401, "oidc:alice": 401, "static:alice": 200} {
		s.Load(sitetest.Users("alice"), issuer.Directory(open), sitetest.Private("acme"), "blocked "+blocked)
		if a := s.Get("/v2/", sitetest.IDToken(raw)); a.StatusCode != status {
			t.Errorf("with %s blocked: got %d, want %d", blocked, a.StatusCode, status)
		}
	}
	// With another name of the directory it is another account.
	s.Load(issuer.Directory(open), sitetest.Private("acme"))
	token := s.Get(sitetest.Auth, sitetest.IDToken(raw)).Expect(t, http.StatusOK, "").Tokens().Token
	s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	s.Load(issuer.Directory(open, "name ci"), sitetest.Private("acme"))
	s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestOIDCReload checks that the current rules apply to tokens that were issued
// before.
func TestOIDCReload(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	issuer := oidctest.New(t)
	rest := []string{sitetest.Private("acme"), sitetest.Private("other"), sitetest.Visible("internal", directory.Internal), sitetest.Hub(up)}
	load := func(o string) []string { return append([]string{sitetest.Users("alice"), o}, rest...) }
	before := issuer.Directory("map repository_owner acme -> acme", "map groups team/* -> acme", "require ref refs/heads/main")
	s := sitetest.Start(t, load(before)...)
	raw := issuer.Token()
	s.AddSecrets(raw)
	token := s.Get(sitetest.Auth, sitetest.IDToken(raw)).Expect(t, http.StatusOK, "").Tokens().Token
	expect := func(acme, other int) {
		t.Helper()
		for group, status := range map[string]int{"acme": acme, "other": other} {
			if a := s.Get(sitetest.ManifestPath(group, "alpine", "3.20"), sitetest.Bearer(token)); a.StatusCode != status {
				t.Errorf("%s: got %d, want %d: %s", group, a.StatusCode, status, a.Data)
			}
		}
	}
	expect(200, 403)
	issuer.Fail(oidctest.Says(500, ""), oidctest.Says(500, "")) // nothing below asks the issuer
	for _, step := range []struct {
		lines       string
		acme, other int
	}{
		{issuer.Directory("map repository_owner acme -> other"), 403, 200},
		{issuer.Directory("map groups team/platform -> acme", "map repository_owner acme -> other"), 200, 200},
		{issuer.Directory("map repository_owner elsewhere -> acme"), 401, 401},
		{issuer.Directory("map repository_owner acme -> acme", "require ref refs/heads/release"), 401, 401},
		{issuer.Directory("map repository_owner acme -> acme", "require environment production"), 401, 401},
		{issuer.Directory("map repository_owner acme -> acme", "account repository"), 401, 401},
		{issuer.Directory("map repository_owner acme -> acme", "name ci"), 401, 401},
		{strings.Replace(before, "registry.example.com", "another.example.com", 1), 401, 401},
		{strings.Replace(before, issuer.URL, "https://another.example.com", 1), 401, 401},
		{"directory elsewhere", 401, 401},
		{before, 200, 403},
	} {
		s.Load(load(step.lines)...)
		expect(step.acme, step.other)
	}
	if strings.Contains(s.Logs(), "cannot verify") {
		t.Error("got a question to the issuer about a token of this site, want none")
	}
}

// TestOIDCOutage checks that during an outage of the issuer new logins get 503
// and not 401, and tokens issued before stay valid.
func TestOIDCOutage(t *testing.T) {
	issuer := oidctest.New(t)
	other := httptest.NewServer(oidctest.Says(200, `{"keys":[]}`))
	t.Cleanup(other.Close)
	lines := []string{sitetest.Users("alice"), issuer.Directory("map repository_owner acme -> acme"), sitetest.Private("acme")}
	s := sitetest.Start(t, lines...)
	raw := issuer.Token()
	s.AddSecrets(raw)
	token := s.Get(sitetest.Auth, sitetest.IDToken(raw)).Expect(t, http.StatusOK, "").Tokens().Token
	document := func(keys string) http.HandlerFunc {
		return oidctest.Says(200, `{"issuer":"`+issuer.URL+`","jwks_uri":"`+keys+`"}`)
	}
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	for reason, fault := range map[string][2]http.HandlerFunc{
		"500 Internal":                        {oidctest.Says(500, strings.Repeat("page ", 1000)), nil},
		"discovery object":                    {oidctest.Says(200, "<html>"), nil},
		"too large":                           {oidctest.Says(200, `{"x":"`+strings.Repeat("x", 512<<10)+`"}`), nil},
		"did not match the issuer":            {oidctest.Says(200, `{"issuer":"https://evil.example","jwks_uri":"`+issuer.URL+`/keys"}`), nil},
		"is not https":                        {document("http://192.0.2.1/keys"), nil},
		`to \"file:///etc/passwd\"`:           {document("file:///etc/passwd"), nil},
		`refers to \"\"`:                      {document(""), nil},
		"status 503":                          {nil, oidctest.Says(503, "")},
		"invalid character":                   {nil, oidctest.Says(200, "garbage")},
		"body too large":                      {nil, oidctest.Says(200, `{"keys":[`+strings.Repeat(" ", 512<<10)+`]}`)},
		"can be used":                         {nil, oidctest.Says(200, `{"keys":[{"kty":"oct","k":"c2VjcmV0"},{"kty":"what"},7]}`)},
		"EOF":                                 {nil, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"too many redirects":                  {nil, redirect(issuer.URL + "/keys")},
		"refers to \\\"http://192.0.2.1/\\\"": {nil, redirect("http://192.0.2.1/")},
	} {
		issuer.Fail(fault[0], fault[1])
		s.Load(lines...) // without a cached key
		known := len(s.Logs())
		for range 3 {
			s.Get(sitetest.Auth, sitetest.IDToken(raw)).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").Has(t, "Retry-After", "10")
		}
		s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
		s.Get(sitetest.Auth, sitetest.As("alice")).Expect(t, http.StatusOK, "")
		logs := s.Logs()[known:]
		if !strings.Contains(logs, reason) {
			t.Errorf("the log does not contain %q: %.1000s", reason, logs)
		}
		if strings.Contains(logs, strings.Repeat("page ", 60)) {
			t.Error("got the whole response of the issuer in the log, want a part of it")
		}
	}
	issuer.Fail(nil, nil)
	s.Load(lines...)
	s.Get(sitetest.Auth, sitetest.IDToken(raw)).Expect(t, http.StatusOK, "")
}

// TestOIDCPrivateCA checks that an issuer with a private CA needs a transport.
func TestOIDCPrivateCA(t *testing.T) {
	issuer := oidctest.New(t)
	server := httptest.NewTLSServer(issuer)
	t.Cleanup(server.Close)
	issuer.URL = server.URL
	s := sitetest.NewSite(t)
	ca := s.Dir + "/ca.pem"
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, content, 0o600); err != nil {
		t.Fatal(err)
	}
	raw := issuer.Token()
	s.AddSecrets(raw)
	s.Load(issuer.Directory("map repository_owner acme -> acme"), sitetest.Private("acme"))
	s.Get("/v2/", sitetest.IDToken(raw)).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	s.Load(issuer.Directory("map repository_owner acme -> acme", "transport http {\n tls_trust_pool file "+ca+"\n}"), sitetest.Private("acme"))
	s.Get("/v2/", sitetest.IDToken(raw)).Expect(t, http.StatusOK, "")
	if !strings.Contains(s.Logs(), `"account":"repo:acme/app:ref:refs/heads/main","directory":"oidc"`) {
		t.Error("the log lacks the account and its directory")
	}
}
