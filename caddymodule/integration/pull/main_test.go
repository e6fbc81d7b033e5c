// Package pull tests pulls through a site: what clients get, how many requests to upstreams
// that costs, what is stored, and what clients see of the faults of upstreams.
package pull

import (
	"testing"

	// The handler and its guest modules.
	_ "github.com/dependencyproxy/caddy-dependency-proxy"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

func TestMain(m *testing.M) { sitetest.Main(m) }
