package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func TestIsPublic(t *testing.T) {
	for addresses, want := range map[string]bool{
		"1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.167.0.1 223.255.255.255":                                                        true,
		"2606:4700::1111 2001:4860:4860::8888 2a00::1 2001:200::1 ::ffff:8.8.8.8 64:ff9b::808:808":                                                            true,
		"0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.1.2.3 169.254.169.254 172.16.0.1 172.31.255.255 192.168.1.1":                       false,
		"192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255":                    false,
		":: ::1 fe80::1 fe80::1%eth0 fec0::1 fc00::1 fd00:ec2::254 ff02::1 2001::1 2001:db8::1 2002:a00:1::1 3fff::1 100::1 5f00::1 4000::1":                  false,
		"::ffff:10.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1 ::ffff:0:10.0.0.1 64:ff9b::a00:1 64:ff9b::7f00:1 64:ff9b:1::808:808 1::1 e000::": false,
	} {
		for text := range strings.FieldsSeq(addresses) {
			if got := isPublic(netip.MustParseAddr(text)); got != want {
				t.Errorf("isPublic(%s) = %v, want %v", text, got, want)
			}
		}
	}
	if isPublic(netip.Addr{}) {
		t.Error("isPublic of the zero address = true, want false")
	}
}

func TestTransportRefusesPrivateAddresses(t *testing.T) {
	r := registrytest.New(t)
	d := r.PutBlob("a", []byte("x"))
	guarded := NewTransport(TransportConfig{})
	foreign := &http.Transport{DialContext: GuardDial((&net.Dialer{}).DialContext)}
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
	guarded := GuardDial((&net.Dialer{}).DialContext)
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

// closeConn is a connection to remote that records whether it was closed.
type closeConn struct {
	net.Conn
	remote net.Addr
	closed bool
}

func (c *closeConn) RemoteAddr() net.Addr { return c.remote }
func (c *closeConn) Close() error         { c.closed = true; return nil }

func TestGuardDial(t *testing.T) {
	for _, test := range []struct {
		remote net.Addr
		pass   bool
	}{
		{&net.TCPAddr{IP: net.IPv4(8, 8, 8, 8), Port: 443}, true},
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443}, false},
		{&net.UnixAddr{Name: "/run/x.sock", Net: "unix"}, false},
		{nil, false},
	} {
		conn := &closeConn{remote: test.remote}
		got, err := GuardDial(func(context.Context, string, string) (net.Conn, error) { return conn, nil })(t.Context(), "tcp", "h:1")
		if (err == nil) != test.pass || conn.closed == test.pass || (got != nil) != test.pass {
			t.Errorf("remote address %v: got %v, closed %v, want permitted %v", test.remote, err, conn.closed, test.pass)
		}
	}
	broken := errors.New("broken")
	if _, err := GuardDial(func(context.Context, string, string) (net.Conn, error) { return nil, broken })(t.Context(), "tcp", "h:1"); err != broken {
		t.Errorf("failing dial: got %v, want %v", err, broken)
	}
}

func TestNewTransport(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/a/tags/list" {
			w.Header().Set("X", strings.Repeat("x", 32<<10))
		}
		_, _ = w.Write([]byte(r.Proto))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	trusting := func(config TransportConfig) *http.Transport {
		transport := NewTransport(config)
		transport.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		t.Cleanup(transport.CloseIdleConnections)
		if transport.Proxy != nil {
			t.Error("got a proxy, want none")
		}
		return transport
	}
	transport := trusting(TransportConfig{AllowPrivate: true})
	_, err := clientAt(t, server.URL, transport).Tags(t.Context(), "a", nil)
	wantKind(t, err, Unavailable)

	plain := clientAt(t, server.URL, transport)
	split := clientAt(t, server.URL, transport)
	split.ranges = trusting(TransportConfig{AllowPrivate: true, OnlyHTTP1: true})
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
