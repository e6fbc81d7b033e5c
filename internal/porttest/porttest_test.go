package porttest

import (
	"net"
	"runtime"
	"testing"
)

// TestReserve checks that connections to a reserved address are refused until a server
// listens there, and again afterwards, and that nobody else gets the port.
func TestReserve(t *testing.T) {
	address := Reserve(t)
	refused := func(when string) {
		t.Helper()
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			t.Errorf("%s: got a connection, want none", when)
		}
	}
	for range 2 {
		refused("no server listens")
		server, err := Listen(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatalf("a server listens: got error %v, want a connection", err)
		}
		_ = conn.Close()
		_ = server.Close()
	}
	refused("the server has stopped")
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		return
	}
	if other, err := net.Listen("tcp", address); err == nil {
		_ = other.Close()
		t.Error("got a listener that does not share the port, want an error")
	}
}
