// Package dial makes connections to registries and to the servers to which they redirect.
//
// Neither is trusted: a registry may refer to any address, and a name may resolve to any
// address. [NewTransport] and [Guard] refuse addresses that are not public, so that no
// registry makes this process send requests to services in a private network. They look
// at the address that is connected to, not at the name. A [*BlockedError] says how to
// permit such addresses.
package dial

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// TransportConfig configures [NewTransport].
type TransportConfig struct {
	// AllowPrivate permits connections to addresses that are not public, such
	// as those of a private network or of this machine.
	AllowPrivate bool

	// OnlyHTTP1 disables HTTP/2, so that concurrent requests use separate
	// connections.
	OnlyHTTP1 bool
}

// NewTransport returns a transport for one upstream. It waits at most 10 s for a
// connection, 10 s for the TLS handshake and 30 s for a response header, and
// reads at most 16 KiB of headers. It uses HTTP/2 if the server supports it,
// unless OnlyHTTP1 is set. It ignores the proxy settings of the environment and
// does not decompress responses. Unless AllowPrivate is set, it refuses to
// connect to addresses that are not public, also if a redirect leads there.
//
// The number of connections to a host is not limited: requests beyond a limit
// would wait in a single queue, in which slow downloads of one group delay those
// of all others. The caller limits its requests.
//
// The caller owns the transport and calls CloseIdleConnections when done.
func NewTransport(config TransportConfig) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if !config.AllowPrivate {
		// ControlContext receives the resolved address that is about to be
		// dialed, so a second resolution of the name cannot change the result.
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
		MaxIdleConnsPerHost:    16, // several concurrent pulls with a handful of layers each
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true, // digests are those of the bytes as sent
		ForceAttemptHTTP2:      true, // net/http disables HTTP/2 for transports with their own dialer
		HTTP2: &http.HTTP2Config{
			// Detects a dead connection, which would stall all requests to an upstream.
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

// Guard wraps the dial function of a transport that was not created by
// [NewTransport]. The returned function fails if the remote address of the
// connection is not a public IP address; Unix sockets are refused too. The check
// runs after connecting, because such a transport may offer no hook before it,
// and closes the connection before a byte is sent.
func Guard(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
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

// A BlockedError means that connections to an address are not permitted.
type BlockedError struct{ address string }

// Error returns the text of the error.
func (e *BlockedError) Error() string {
	return fmt.Sprintf("%q is not a public address; set allow_private for this upstream to permit it", e.address)
}

// checkAddress returns an error unless address is IP:PORT with a public IP address.
func checkAddress(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return &BlockedError{address}
	}
	if !isPublic(ap.Addr()) {
		return &BlockedError{ap.Addr().String()}
	}
	return nil
}

// Public IPv6 addresses are those of 2000::/3 without the blocks below. This
// excludes unique local, link-local, loopback, multicast and unassigned addresses.
var (
	globalUnicast6 = netip.MustParsePrefix("2000::/3")
	nat64          = netip.MustParsePrefix("64:ff9b::/96")
	notPublic      = prefixes(
		"0.0.0.0/8",       // this network
		"10.0.0.0/8",      // private
		"100.64.0.0/10",   // carrier-grade NAT
		"127.0.0.0/8",     // loopback
		"169.254.0.0/16",  // link-local, including metadata services of clouds
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
		"2002::/16",       // 6to4, which can embed any IPv4 address
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
// address is public if the IPv4 address that it embeds is: hosts without IPv4
// reach registries without IPv6 through NAT64.
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
