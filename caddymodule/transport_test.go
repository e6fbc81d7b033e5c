package caddymodule

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestGuardedTransport: what of Caddy's transport cannot be kept from private
// addresses is an error at load, which allow_private, before or after it, lifts.
func TestGuardedTransport(t *testing.T) {
	s := newSite(t)
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = udp.Close() }()
	for lines, want := range map[string]string{
		"versions 3\n tls":                             "connections with HTTP/3 cannot be kept from private addresses; leave 3 out of versions, or write `allow_private`",
		"forward_proxy_url http://192.0.2.1:3128":      "connections with network_proxy url",
		"network_proxy url http://192.0.2.1:3128":      "connections with network_proxy url",
		"tls_server_name {http.request.header.X-Name}": "write a plain name",
		"versions h2c":                                 "",
		"network_proxy none":                           "",
		"resolvers 127.0.0.1":                          "",
		"dial_timeout 3s\n versions 1.1":               "",
	} {
		block := "transport http {\n " + lines + "\n}\n"
		upstream := "upstream docker.io {\n endpoint https://" + udp.LocalAddr().String() + "\n"
		err := s.validate(private("acme"), upstream+block+"}")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", lines, err, want)
		}
		if want != "" && err != nil && !strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("%q: the error has no line: %v", lines, err)
		}
		for _, whole := range []string{upstream + "allow_private\n" + block + "}", upstream + block + "allow_private\n}"} {
			if err := s.validate(private("acme"), whole); err != nil {
				t.Errorf("%q with allow_private: %v", lines, err)
			}
		}
	}
	// In JSON, where a version stands in no Caddyfile.
	h := &Handler{Groups: []*Group{{Path: "acme"}}, Upstreams: []*Upstream{{Name: "docker.io", TransportRaw: []byte(`{"protocol":"http","versions":["3"]}`)}}}
	if err := h.check(); err == nil || !strings.Contains(err.Error(), "HTTP/3") {
		t.Errorf("in JSON: got %v, want an error", err)
	}
	h.Upstreams[0].TransportRaw = []byte(`{"protocol":"http","forward_proxy_url":"http://192.0.2.1"}`)
	if err := h.check(); err == nil || !strings.Contains(err.Error(), "forward_proxy_url") {
		t.Errorf("in JSON: got %v, want an error", err)
	}
}

// TestGuardedH2C: HTTP/2 without TLS goes through the checked dialer.
func TestGuardedH2C(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	s := start(t, users("alice"), private("acme", "alice"), "upstream docker.io {\n endpoint "+server.URL+"\n transport http {\n versions h2c\n}\n}")
	s.get(manifestPath("acme", "alpine", "1"), as("alice")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	if n := asked.Load(); n != 0 || !strings.Contains(s.logs(), "not a public address") {
		t.Errorf("the server was asked %d times", n)
	}
}

// TestGuardedProxy: a proxy that the environment names is not used past the check.
func TestGuardedProxy(t *testing.T) {
	const again = "DEPENDENCY_PROXY_TEST_PROXY"
	if os.Getenv(again) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGuardedProxy$")
		cmd.Env = append(os.Environ(), again+"=1", "HTTPS_PROXY=http://192.0.2.1:3128", "NO_PROXY=direct.example.com")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	s := newSite(t)
	block := func(host, lines, transport string) string {
		return "upstream docker.io {\n endpoint https://" + host + "\n" + lines + "\n transport http {\n " + transport + "\n}\n}"
	}
	if err := s.validate(private("acme"), block("registry.example.com", "", "")); !errors.Is(err, errProxied) && (err == nil || !strings.Contains(err.Error(), "network_proxy none")) {
		t.Errorf("an endpoint behind the proxy: got %v, want errProxied", err)
	}
	for name, whole := range map[string]string{
		"allowed": block("registry.example.com", "allow_private", ""), "no proxy": block("registry.example.com", "", "network_proxy none"), "excepted": block("direct.example.com", "", ""),
	} {
		if err := s.validate(private("acme"), whole); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A redirect elsewhere would be to a host that is not excepted.
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	transport := &reverseproxy.HTTPTransport{DialTimeout: caddy.Duration(time.Second)}
	if err := transport.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := guardTransport(transport, &url.URL{Scheme: "https", Host: "direct.example.com"}); err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://cdn.example.net/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := transport.RoundTrip(request); !errors.Is(err, errProxied) {
		t.Errorf("got %v, want %v", err, errProxied)
	}
}

// TestPublicLoginWarning: a group that anybody may pull from with a login of the
// configuration is told of at load and by explain, unless its limits keep it from
// the upstream.
func TestPublicLoginWarning(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", upstreamPassword))
	login := hubLogin(t)
	own := "upstream docker.io {\n " + login + "\n}\n"
	const mark = "anybody can pull what"
	for name, row := range map[string]struct {
		lines  []string
		pull   string
		holder string // empty: no warning
	}{
		"upstream's login":     {[]string{hub(up, login), visible("open", directory.Public)}, "open/x", "upstream docker.io"},
		"no login":             {[]string{hub(up), visible("open", directory.Public)}, "open/x", ""},
		"private":              {[]string{hub(up, login), private("open", "alice")}, "open/x", ""},
		"internal":             {[]string{hub(up, login), visible("open", directory.Internal)}, "open/x", ""},
		"own login":            {[]string{hub(up), "group open {\n visibility public\n " + own + "}"}, "open/x", "group open"},
		"inherited login":      {[]string{hub(up), "group acme {\n members alice\n " + own + "}", visible("acme/open", directory.Public)}, "acme/open/x", "group acme"},
		"limited elsewhere":    {[]string{hub(up, login), at("ghcr.io", up.URL()), "group open {\n visibility public\n allow ghcr.io/**\n}"}, "open/ghcr.io/x", ""},
		"limited above":        {[]string{hub(up, login), at("ghcr.io", up.URL()), "group acme {\n members alice\n allow ghcr.io/**\n}", visible("acme/open", directory.Public)}, "acme/open/x", ""},
		"denied":               {[]string{hub(up, login), "group open {\n visibility public\n deny docker.io/**\n}"}, "open/x", ""},
		"limited to a part":    {[]string{hub(up, login), "group open {\n visibility public\n allow docker.io/library/*\n}"}, "open/x", "upstream docker.io"},
		"denied by a tag":      {[]string{hub(up, login), "group open {\n visibility public\n deny docker.io/**:latest\n}"}, "open/x", "upstream docker.io"},
		"the other's no login": {[]string{hub(up), at("ghcr.io", up.URL(), login), visible("open", directory.Public)}, "open/ghcr.io/x", "upstream ghcr.io"},
	} {
		s := startWithAdmin(t, append(row.lines, users("alice"))...)
		logs, out := s.logs(), s.mustCommandAny("explain", "--pull", row.pull)
		if got := strings.Contains(logs, mark); got != (row.holder != "") || row.holder != "" && !strings.Contains(logs, `"login_of":"`+row.holder+`"`) {
			t.Errorf("%s: the log warns: %v, want login_of %q", name, got, row.holder)
		}
		if got := strings.Contains(out, "warning:     the group is public: "+mark+" the login of "+row.holder); got != (row.holder != "") {
			t.Errorf("%s: explain prints %s", name, out)
		}
		s.stop()
	}
}

// mustCommandAny runs a command that may end with another status than 0.
func (s *site) mustCommandAny(args ...string) string {
	s.t.Helper()
	out, _ := s.command(args...)
	return out
}
