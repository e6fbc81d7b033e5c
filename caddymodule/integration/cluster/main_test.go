// Package cluster tests nodes that share a bucket, redirects to it, and how nodes find
// each other.
package cluster

import (
	"testing"

	// The handler and its guest modules.
	_ "github.com/dependencyproxy/caddy-dependency-proxy"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

func TestMain(m *testing.M) { sitetest.Main(m) }
