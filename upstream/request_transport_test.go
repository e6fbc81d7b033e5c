package upstream

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

func TestTransportRefusesPrivateAddresses(t *testing.T) {
	r := registrytest.New(t)
	d := r.PutBlob("a", []byte("x"))
	guarded := dial.NewTransport(dial.TransportConfig{})
	foreign := &http.Transport{DialContext: dial.Guard((&net.Dialer{}).DialContext)}
	for name, transport := range map[string]http.RoundTripper{"own": guarded, "foreign": foreign} {
		for _, host := range []string{r.Host(), strings.Replace(r.Host(), "127.0.0.1", "localhost", 1)} {
			_, err := clientAt(t, "http://"+host, transport).Blob(t.Context(), "a", d, 0, -1, "")
			e := wantKind(t, err, Unavailable)
			if !strings.Contains(e.Error(), "allow_private") {
				t.Errorf("%s transport: got %v, want allow_private in it", name, err)
			}
		}
	}
	if got := r.Counts(); got != (registrytest.Counts{}) {
		t.Errorf("got requests %+v, want none", got)
	}
}

// TestGuardDialAfterRedirect uses a transport that permits only the address of the
// registry, as if it were public, and a registry that redirects to another address.
func TestGuardDialAfterRedirect(t *testing.T) {
	r := registrytest.New(t, registrytest.WithBlobRedirect())
	d := r.PutBlob("a", []byte("x"))
	guarded := dial.Guard((&net.Dialer{}).DialContext)
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == r.Host() {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
		return guarded(ctx, network, addr)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	_, err := clientAt(t, r.URL(), transport).Blob(t.Context(), "a", d, 0, -1, "")
	wantKind(t, err, Unavailable)
	if got := r.Counts(); got.BlobGet != 1 || got.Storage != 0 {
		t.Errorf("got requests %+v, want 1 GET and none to the storage", got)
	}
}

func TestTransport(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/a/tags/list" {
			w.Header().Set("X", strings.Repeat("x", 32<<10))
		}
		_, _ = w.Write([]byte(r.Proto))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	trusting := func(config dial.TransportConfig) *http.Transport {
		transport := dial.NewTransport(config)
		transport.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		t.Cleanup(transport.CloseIdleConnections)
		if transport.Proxy != nil {
			t.Error("got a proxy, want none")
		}
		return transport
	}
	transport := trusting(dial.TransportConfig{AllowPrivate: true})
	_, err := clientAt(t, server.URL, transport).Tags(t.Context(), "a", nil)
	wantKind(t, err, Unavailable)

	plain := clientAt(t, server.URL, transport)
	split := clientAt(t, server.URL, transport)
	split.ranges = trusting(dial.TransportConfig{AllowPrivate: true, OnlyHTTP1: true})
	for _, test := range []struct {
		client *Registry
		length int64
		want   string
	}{{plain, -1, "HTTP/2.0"}, {plain, 100, "HTTP/2.0"}, {split, -1, "HTTP/2.0"}, {split, 100, "HTTP/1.1"}} {
		b, err := test.client.Blob(t.Context(), "a", digestOf("x"), 0, test.length, "")
		if err != nil {
			t.Fatal(err)
		}
		proto := make([]byte, 8)
		if n, _ := b.Read(proto); string(proto[:n]) != test.want {
			t.Errorf("length %d: got protocol %q, want %q", test.length, proto[:n], test.want)
		}
		_ = b.Close()
	}
}
