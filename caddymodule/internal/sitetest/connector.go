package sitetest

import (
	"net"
	"sync"
	"testing"
)

// Connector forwards connections to a node, until it is told not to. New connections wait
// while Caddy loads a configuration.
type Connector struct {
	net.Listener
	address string

	mu    sync.Mutex
	open  map[net.Conn]bool
	hangs bool
}

// Connect returns a connector to an address, for the rest of the test.
func Connect(t testing.TB, address string) *Connector {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Connector{Listener: listener, address: address, open: make(map[net.Conn]bool)}
	t.Cleanup(c.Cut)
	go c.accept()
	return c
}

func (c *Connector) accept() {
	for {
		in, err := c.Accept()
		if err != nil {
			return
		}
		loading.RLock()
		c.mu.Lock()
		address := c.address
		c.mu.Unlock()
		out, err := net.Dial("tcp", address)
		loading.RUnlock()
		if err != nil {
			_ = in.Close()
			continue
		}
		c.mu.Lock()
		c.open[in], c.open[out] = true, true
		c.mu.Unlock()
		go c.pass(in, out)
		go c.pass(out, in)
	}
}

// pass copies what one side sends to the other one.
func (c *Connector) pass(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		c.mu.Lock()
		hangs := c.hangs
		c.mu.Unlock()
		if err == nil && !hangs {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			_, _ = to.Close(), from.Close()
			return
		}
	}
}

// Cut closes the listener and all connections, as if the node had been killed.
func (c *Connector) Cut() {
	_ = c.Close()
	c.Lead("")
}

// Lead closes all connections. The next ones lead to another address.
func (c *Connector) Lead(address string) {
	c.mu.Lock()
	c.address = address
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.Close()
	}
}

// Hang makes the connector discard what is sent to the node, so that the node sends nothing.
func (c *Connector) Hang() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangs = true
}
