package sitetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	// The modules that the configurations of the tests name.
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
)

// Main runs the tests of a package and exits. It gives Caddy a temporary home directory and
// makes name look-ups fail. The tests use loopback addresses only, so a look-up means that a
// test sends a request to the network, and fails the run.
func Main(m *testing.M) {
	var asked atomic.Bool
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asked.Store(true)
		return nil, errors.New("tests look up no names")
	}}
	home, err := os.MkdirTemp("", "caddy-home-")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		_ = os.Setenv(name, home)
	}
	access.LoginTimes = access.Times{Failed: 2 * time.Millisecond, Checked: 20 * time.Second}
	code := m.Run()
	_ = os.RemoveAll(home)
	if asked.Load() && code == 0 {
		fmt.Fprintln(os.Stderr, "a test has looked up a host name")
		code = 1
	}
	os.Exit(code)
}
