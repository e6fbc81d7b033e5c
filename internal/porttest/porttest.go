// Package porttest reserves ports of the loopback interface for servers that a test starts
// later, or stops and starts again. A port that is merely free may be in use by then, by
// another test program or for a connection to a server.
package porttest

import (
	"context"
	"net"
	"testing"
)

// Reserve returns an address of the loopback interface, with its port, where nothing else
// will listen or connect from until the test ends, and where connections are refused. A
// server that listens there must share its port, as those of Caddy and of [Listen] do.
// Only on Linux and macOS the port is kept; elsewhere it is one that was free.
func Reserve(t testing.TB) (address string) {
	t.Helper()
	address, release, err := reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return address
}

// Listen listens at a reserved address.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: share}
	return config.Listen(ctx, "tcp", address)
}
