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

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

// TestGuardedTransport checks that options of Caddy's transport that would
// bypass the check of private addresses are errors at load unless allow_private
// is set, before or after them.
func TestGuardedTransport(t *testing.T) {
	s := sitetest.NewSite(t)
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
		err := s.Validate(sitetest.Private("acme"), upstream+block+"}")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", lines, err, want)
		}
		if want != "" && err != nil && !strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("%q: got error %v, want one with a line of the Caddyfile", lines, err)
		}
		for _, whole := range []string{upstream + "allow_private\n" + block + "}", upstream + block + "allow_private\n}"} {
			if err := s.Validate(sitetest.Private("acme"), whole); err != nil {
				t.Errorf("%q with allow_private: got error %v, want none", lines, err)
			}
		}
	}
	// In JSON the same options are errors.
	h := &Handler{Groups: []*Group{{Path: "acme"}}, Upstreams: []*Upstream{{Name: "docker.io", TransportRaw: []byte(`{"protocol":"http","versions":["3"]}`)}}}
	if err := h.check(); err == nil || !strings.Contains(err.Error(), "HTTP/3") {
		t.Errorf("in JSON: got %v, want an error", err)
	}
	h.Upstreams[0].TransportRaw = []byte(`{"protocol":"http","forward_proxy_url":"http://192.0.2.1"}`)
	if err := h.check(); err == nil || !strings.Contains(err.Error(), "forward_proxy_url") {
		t.Errorf("in JSON: got %v, want an error", err)
	}
}

// TestGuardedH2C checks that HTTP/2 without TLS uses the checked dialer.
func TestGuardedH2C(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), "upstream docker.io {\n endpoint "+server.URL+"\n transport http {\n versions h2c\n}\n}")
	s.Get(sitetest.ManifestPath("acme", "alpine", "1"), sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	if n := asked.Load(); n != 0 || !strings.Contains(s.Logs(), "not a public address") {
		t.Errorf("got %d requests at the server, want none and the reason in the log", n)
	}
}

// TestGuardedProxy checks that a proxy of the environment is not used to bypass
// the check of private addresses.
func TestGuardedProxy(t *testing.T) {
	const again = "DEPENDENCY_PROXY_TEST_PROXY"
	if os.Getenv(again) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGuardedProxy$")
		// The race detector would wait for a second at the end.
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", again+"=1", "HTTPS_PROXY=http://192.0.2.1:3128", "NO_PROXY=direct.example.com")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("got error %v, want none:\n%s", err, out)
		}
		return
	}
	s := sitetest.NewSite(t)
	block := func(host, lines, transport string) string {
		return "upstream docker.io {\n endpoint https://" + host + "\n" + lines + "\n transport http {\n " + transport + "\n}\n}"
	}
	for _, hosts := range []string{"registry.example.com", "direct.example.com https://registry.example.com"} {
		if err := s.Validate(sitetest.Private("acme"), block(hosts, "", "")); !errors.Is(err, errProxied) && (err == nil || !strings.Contains(err.Error(), "network_proxy none")) {
			t.Errorf("%s behind the proxy: got %v, want errProxied", hosts, err)
		}
	}
	for name, whole := range map[string]string{
		"allowed": block("registry.example.com", "allow_private", ""), "no proxy": block("registry.example.com", "", "network_proxy none"), "excepted": block("direct.example.com", "", ""),
	} {
		if err := s.Validate(sitetest.Private("acme"), whole); err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
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
