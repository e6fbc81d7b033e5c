package upstream

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// TransportConfig says what [NewTransport] may reach.
type TransportConfig struct {
	// AllowPrivate permits connections to addresses that are not public:
	// a registry in the own network, or on this machine.
	AllowPrivate bool

	// OnlyHTTP1 keeps from HTTP/2, so that requests at the same time are on
	// connections of their own.
	OnlyHTTP1 bool
}

// NewTransport returns a transport for one upstream. It waits 10 s for a
// connection, 10 s for TLS and 30 s for a response header, reads at most
// 16 KiB of headers, speaks HTTP/2 where the other side does and the
// configuration does not rule it out, uses no proxy
// from the environment, and leaves encodings alone. Unless the configuration
// says otherwise it refuses to connect to addresses that are not public,
// however the name or the redirect that led there was written.
//
// It does not bound the connections to one host: those that are one too many would
// wait in a single queue, where slow downloads for one group would hold up all
// others, and the parts of a download each other. The caller bounds its requests.
//
// The caller owns it and calls CloseIdleConnections when done.
func NewTransport(config TransportConfig) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if !config.AllowPrivate {
		// Control runs after resolution, with the address that is about to be
		// dialled: a name that resolves differently the second time gains nothing.
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return checkAddress(address)
		}
	}
	transport := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           128,
		MaxIdleConnsPerHost:    16, // a pull asks for a handful of layers at once, several pulls run side by side
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true, // content is addressed by the digest of its bytes
		ForceAttemptHTTP2:      true, // net/http turns it off for transports with their own dialer
		HTTP2: &http.HTTP2Config{
			// One dead connection would otherwise hold all blobs of an upstream.
			SendPingTimeout: 15 * time.Second,
			PingTimeout:     15 * time.Second,
		},
	}
	if config.OnlyHTTP1 {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetHTTP1(true)
	}
	return transport
}

// GuardDial wraps the dial function of a transport that is not ours, so that it
// hands out no connection to an address that is not public. Such a transport may
// leave no hook before connecting, so the check comes after it, on the address of
// the other side; the connection is closed before a byte is sent. Connections
// that have no IP address at the other end, Unix sockets, are refused too.
func GuardDial(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		remote := ""
		if a := conn.RemoteAddr(); a != nil {
			remote = a.String()
		}
		if err := checkAddress(remote); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

// refusedAddressError says that the dial guard did its work.
type refusedAddressError struct{ address string }

func (e *refusedAddressError) Error() string {
	return fmt.Sprintf("%q is not a public address; set allow_private for this upstream to permit it", e.address)
}

// checkAddress refuses an "ip:port" that is not public, and anything else.
func checkAddress(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return &refusedAddressError{address}
	}
	if !isPublic(ap.Addr()) {
		return &refusedAddressError{ap.Addr().String()}
	}
	return nil
}

// Public IPv6 is 2000::/3 without the blocks below; everything outside it, ULA,
// link-local, loopback, multicast and what is not assigned, is refused.
var (
	globalUnicast6 = netip.MustParsePrefix("2000::/3")
	nat64          = netip.MustParsePrefix("64:ff9b::/96")
	notPublic      = prefixes(
		"0.0.0.0/8",       // this network
		"10.0.0.0/8",      // private
		"100.64.0.0/10",   // carrier-grade NAT
		"127.0.0.0/8",     // loopback
		"169.254.0.0/16",  // link-local, and the clouds' metadata services
		"172.16.0.0/12",   // private
		"192.0.0.0/24",    // protocol assignments
		"192.0.2.0/24",    // documentation
		"192.88.99.0/24",  // 6to4 relays
		"192.168.0.0/16",  // private
		"198.18.0.0/15",   // benchmarking
		"198.51.100.0/24", // documentation
		"203.0.113.0/24",  // documentation
		"224.0.0.0/4",     // multicast
		"240.0.0.0/4",     // reserved, broadcast
		"2001::/23",       // protocol assignments, Teredo
		"2001:db8::/32",   // documentation
		"2002::/16",       // 6to4, which embeds any IPv4 address
		"3fff::/20",       // documentation
	)
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// isPublic reports whether an address belongs to the public internet. A NAT64
// address is as public as the IPv4 address inside: networks without IPv4 reach
// every registry that has no IPv6 that way.
func isPublic(a netip.Addr) bool {
	a = a.WithZone("").Unmap()
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if a.Is6() && !globalUnicast6.Contains(a) {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return a.IsValid()
}
