package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

// realmOf returns the realm of the answer's challenge.
func realmOf(a sitetest.Answer) string {
	_, rest, _ := strings.Cut(a.Header.Get("WWW-Authenticate"), `realm="`)
	realm, _, _ := strings.Cut(rest, `"`)
	return realm
}

// TestRealmIsRequestedHost checks that clients are sent to the host that they
// requested, and nowhere else.
func TestRealmIsRequestedHost(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	for name, realm := range map[string]string{
		"registry.example.com": "http://registry.example.com/jwt/auth", "Registry.Example.COM:8443": "http://registry.example.com:8443/jwt/auth",
		"[::1]:80": "http://[::1]:80/jwt/auth", "10.0.0.1": "http://10.0.0.1/jwt/auth", "a_b-c.d": "http://a_b-c.d/jwt/auth",
	} {
		if got := realmOf(s.Get("/v2/", sitetest.Host(name)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")); got != realm {
			t.Errorf("host %s: got realm %q, want %q", name, got, realm)
		}
		token := s.Get(sitetest.Auth, sitetest.As("alice"), sitetest.Host(name)).Expect(t, http.StatusOK, "").Tokens().Token
		s.Get("/v2/", sitetest.Bearer(token), sitetest.Host(name)).Expect(t, http.StatusOK, "")
		s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED") // valid only at the host that issued it
	}
	for _, name := range []string{
		"evil.example/x", "user@evil.example", "evil.example:0", "evil.example:65536", "evil.example:x", "evil.example:", ":80", "[::1", "[::1]x",
		"[evil]", "[]", "a,b", "a;b", "a%20b", `a"b`, "a'b", strings.Repeat("a", 254),
	} {
		for _, path := range []string{"/v2/", sitetest.Auth, sitetest.ManifestPath("acme", "alpine", "3.20")} {
			// The HTTP server refuses some of these before the handler.
			a := s.Get(path, sitetest.Host(name), sitetest.As("alice"))
			if a.StatusCode != http.StatusBadRequest || a.Header.Get("WWW-Authenticate") != "" || a.Tokens().Token != "" {
				t.Errorf("host %q, %s: got %d %v, want 400 without a challenge and a token", name, path, a.StatusCode, a.Header)
			}
		}
	}
}

// TestValidAuthority checks that authorities that no Go client sends are
// rejected.
func TestValidAuthority(t *testing.T) {
	for _, name := range []string{"", "exämple", "[fe80::1%eth0]", "[fe80::1%25eth0]", "[10.0.0.1]", "a b", "a\nb", "a/b", "a?b", "a#b", "a\\b", "A", "::1", "a:+80"} {
		if validAuthority(name) {
			t.Errorf("%q: got a valid authority, want an invalid one", name)
		}
	}
}

// TestForwardedRealm checks that the headers of a proxy in front determine the
// realm only if Caddy trusts the proxy.
func TestForwardedRealm(t *testing.T) {
	forwarded := func(scheme, name string) sitetest.RequestOption {
		return func(r *http.Request) {
			r.Header.Set("X-Forwarded-For", "192.0.2.1")
			r.Header.Set("X-Forwarded-Proto", scheme)
			r.Header.Set("X-Forwarded-Host", name)
			r.Header.Set("Forwarded", "host=forged.example;proto=https")
			r.Header.Set("X-Forwarded-Port", "666")
		}
	}
	s := sitetest.NewSite(t)
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice")}
	s.Load(lines...)
	if got := realmOf(s.Get("/v2/", forwarded("https", "forged.example"))); got != s.URL+"/jwt/auth" {
		t.Errorf("headers of a client: got realm %q, want %q", got, s.URL+"/jwt/auth")
	}
	s.Get(sitetest.Auth, forwarded("https", "forged.example/"), sitetest.As("alice")).Expect(t, http.StatusOK, "")

	s.Globals = "servers {\n trusted_proxies static 192.0.2.0/24\n}"
	s.Load(lines...)
	if got := realmOf(s.Get("/v2/", forwarded("https", "forged.example"))); got != s.URL+"/jwt/auth" {
		t.Errorf("headers of a proxy that is not trusted: got realm %q, want %q", got, s.URL+"/jwt/auth")
	}

	s.Globals = sitetest.TrustedProxies
	s.Load(lines...)
	for _, row := range [][3]string{
		{"https", "registry.example.com", "https://registry.example.com/jwt/auth"},
		{"HTTPS", "Registry.example.com:8443", "https://registry.example.com:8443/jwt/auth"},
		{"http, https", "forged.example, registry.example.com", "https://registry.example.com/jwt/auth"},
		{"http,https", "forged.example:1 ,registry.example.com:8443", "https://registry.example.com:8443/jwt/auth"},
		{"https, ", "forged.example,", "http://" + s.Host + "/jwt/auth"},
		{"https", "", "https://" + s.Host + "/jwt/auth"},
		{"", "registry.example.com", "http://registry.example.com/jwt/auth"},
		{"gopher", "registry.example.com", "http://registry.example.com/jwt/auth"},
	} {
		a := s.Get("/v2/", forwarded(row[0], row[1])).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		if realmOf(a) != row[2] {
			t.Errorf("%q: got realm %q, want %q", row[:2], realmOf(a), row[2])
		}
		token := s.Get(sitetest.Auth, forwarded(row[0], row[1]), sitetest.As("alice")).Expect(t, http.StatusOK, "").Tokens().Token
		s.Get("/v2/", forwarded(row[0], row[1]), sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	}
	_, message := s.Get("/v2/", forwarded("https", "registry.example.com")).Problem()
	if !strings.HasSuffix(message, "docker login registry.example.com") {
		t.Errorf("got the message %q, want the forwarded host in it", message)
	}
	for _, name := range []string{"evil.example/x", `evil.example"`, "user@evil.example", "evil.example:x"} {
		s.Get("/v2/", forwarded("https", name)).Expect(t, http.StatusBadRequest, "UNSUPPORTED").Has(t, "WWW-Authenticate", "")
	}
}

// TestConfiguredRealm checks that the configured realm takes precedence.
func TestConfiguredRealm(t *testing.T) {
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), "realm https://login.example.com:8443/jwt/auth")
	for _, changes := range [][]sitetest.RequestOption{
		nil, {sitetest.Host("forged.example")}, {sitetest.Header("X-Forwarded-Host", "forged.example")}, {sitetest.Host("forged_example:1")},
	} {
		a := s.Get("/v2/", changes...).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		a.Has(t, "WWW-Authenticate", `Bearer realm="https://login.example.com:8443/jwt/auth",service="dependency_proxy"`)
		token := s.Get(sitetest.Auth, append(changes, sitetest.As("alice"))...).Expect(t, http.StatusOK, "").Tokens().Token
		s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	}
}

// TestForwardedRealmLastValue checks that the last of several forwarded values
// counts, which is that of the proxy next to the site, in one header or in
// several.
func TestForwardedRealmLastValue(t *testing.T) {
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	for _, row := range []struct {
		hosts, schemes []string
		want           string
	}{
		{[]string{"evil.example", "registry.example.com"}, []string{"http", "https"}, "https://registry.example.com/jwt/auth"},
		{[]string{"evil.example, evil.example", "registry.example.com"}, []string{"http, https"}, "https://registry.example.com/jwt/auth"},
		{[]string{"evil.example", "evil.example,registry.example.com"}, []string{"https", "http"}, "http://registry.example.com/jwt/auth"},
		{[]string{"evil.example", ""}, []string{"https"}, "https://" + s.Host + "/jwt/auth"},
	} {
		a := s.Get("/v2/", func(r *http.Request) {
			r.Header["X-Forwarded-Host"], r.Header["X-Forwarded-Proto"] = row.hosts, row.schemes
		})
		if got := realmOf(a.Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")); got != row.want {
			t.Errorf("%q, %q: got realm %q, want %q", row.hosts, row.schemes, got, row.want)
		}
	}
}
