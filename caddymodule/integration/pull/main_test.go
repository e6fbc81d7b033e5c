// Package pull tests what clients get that pull through a site, what that costs at
// upstreams and what is stored, and how faults of upstreams show.
package pull

import (
	"testing"

	// The handler and its guest modules.
	_ "github.com/dependencyproxy/caddy-dependency-proxy"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

func TestMain(m *testing.M) { sitetest.Main(m) }
