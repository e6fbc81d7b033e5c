package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
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

// closeConn is a connection to remote that records whether it was closed.
type closeConn struct {
	net.Conn
	remote net.Addr
	closed bool
}

func (c *closeConn) RemoteAddr() net.Addr { return c.remote }
func (c *closeConn) Close() error         { c.closed = true; return nil }

func TestGuard(t *testing.T) {
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
		got, err := Guard(func(context.Context, string, string) (net.Conn, error) { return conn, nil })(t.Context(), "tcp", "h:1")
		if (err == nil) != test.pass || conn.closed == test.pass || (got != nil) != test.pass {
			t.Errorf("remote address %v: got %v, closed %v, want permitted %v", test.remote, err, conn.closed, test.pass)
		}
	}
	broken := errors.New("broken")
	if _, err := Guard(func(context.Context, string, string) (net.Conn, error) { return nil, broken })(t.Context(), "tcp", "h:1"); err != broken {
		t.Errorf("failing dial: got %v, want %v", err, broken)
	}
}
