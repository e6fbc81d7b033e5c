package pull

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestUpstreamPasswordSources checks that passwords for upstreams come from the
// environment or from files, and that the configuration contains only their
// placeholders.
func TestUpstreamPasswordSources(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.NewSite(t)
	file := s.Dir + "/secret"
	if err := os.WriteFile(file, []byte(sitetest.UpstreamPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HUB_USER", "hub")
	t.Setenv("HUB_PASSWORD", sitetest.UpstreamPassword)
	for _, credentials := range []string{"hub {env.HUB_PASSWORD}", "{env.HUB_USER} {env.HUB_PASSWORD}", "hub {file." + file + "}"} {
		lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "credentials "+credentials)}
		config, err := s.Adapt(lines...)
		if err != nil || strings.Contains(string(config), sitetest.UpstreamPassword) {
			t.Errorf("%s: got error %v, want none and no password in %s", credentials, err, config)
		}
		for _, placeholder := range strings.Fields(credentials) {
			if !strings.Contains(string(config), `"`+placeholder+`"`) {
				t.Errorf("the configuration lacks %s: %s", placeholder, config)
			}
		}
		s.Load(lines...)
		s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
		up.RevokeTokens()
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for credentials, what := range map[string]string{
		"hub " + sitetest.UpstreamPassword: "placeholder",
		"hub {$HUB_PASSWORD}":              "placeholder", // replaced by the Caddyfile adapter
		"hub x{env.HUB_PASSWORD}":          "placeholder",
		"hub {env.NOT_SET}":                "NOT_SET",
		"hub {file." + file + "}":          "empty",
		"hub {file." + s.Dir + "/none}":    "none",
		"{env.NOT_SET} {env.HUB_USER}":     "user name",
		"hub":                              "credentials USERNAME",
		`"" {env.HUB_PASSWORD}`:            "user name",
	} {
		err := s.TryLoad(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "credentials "+credentials))
		if err == nil || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), sitetest.UpstreamPassword) {
			t.Errorf("%s: got error %v, want %q and no password", credentials, err, what)
		}
	}
}

// TestRealmHosts checks that credentials are sent to the host of the registry
// and to the configured realm hosts, and to no other host that a challenge
// names.
func TestRealmHosts(t *testing.T) {
	var up *registrytest.Registry
	var asked atomic.Int32
	realm := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		request, err := http.NewRequestWithContext(r.Context(), r.Method, up.URL()+r.URL.RequestURI(), nil)
		if err != nil {
			panic(err)
		}
		request.Header = r.Header
		response, err := up.Transport().RoundTrip(request)
		if err != nil {
			panic(err)
		}
		defer response.Body.Close()
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
	}))
	defer realm.Close()
	name := strings.TrimPrefix(realm.URL, "https://")
	up = registrytest.New(t, registrytest.WithTLS(), registrytest.WithToken("hub", sitetest.UpstreamPassword), registrytest.WithRealm(realm.URL+"/token"))
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	lines := func(realmHosts string) []string {
		return []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, sitetest.HubCredentials(t), realmHosts, "transport http {\n tls_insecure_skip_verify\n}")}
	}
	s := sitetest.Start(t, lines("")...)
	for _, hosts := range []string{"", "realm_hosts other.example", "realm_hosts 127.0.0.1"} {
		s.Load(lines(hosts)...)
		refused := s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusBadGateway, "UNAVAILABLE")
		if !strings.Contains(string(refused.Data), "cannot be used there") {
			t.Errorf("%s: got %s, want that the login was not sent", hosts, refused.Data)
		}
	}
	if asked.Load() != 0 {
		t.Errorf("got %d requests at a host that is not configured, want none", asked.Load())
	}
	if !strings.Contains(s.Logs(), "add "+name+" to realm_hosts") {
		t.Error("the log lacks the host to add")
	}
	s.Load(lines("realm_hosts other.example " + name)...)
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	if asked.Load() != 1 {
		t.Errorf("got %d requests at the token service, want 1", asked.Load())
	}
}

// TestPrivateAddresses checks that an upstream on a private address must be
// allowed, whichever transport connects to it.
func TestPrivateAddresses(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.NewSite(t)
	for _, line := range []string{"", "transport http", "allow_private off"} {
		s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), "upstream docker.io {\n endpoint "+up.URL()+"\n "+line+"\n}")
		s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	}
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v, want none", counts)
	}
	if !strings.Contains(s.Logs(), "allow_private") {
		t.Error("the log lacks the line to add")
	}
	for _, line := range []string{"allow_private", "allow_private on\n transport http"} {
		s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), "upstream docker.io {\n endpoint "+up.URL()+"\n "+line+"\n}")
		s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
}

// TestIdentityToken checks that an identity token is used as Docker does, and is not
// sent as a password.
func TestIdentityToken(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword), registrytest.WithOAuth(http.StatusMethodNotAllowed))
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	up.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if _, _, sent := r.BasicAuth(); sent {
			t.Errorf("%s %s carries a password, want none", r.Method, r.URL.Path)
		}
		return false
	})
	t.Setenv("HUB_TOKEN", sitetest.UpstreamPassword)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "credentials <token> {env.HUB_TOKEN}"))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
}
