// Package login tests who may log in to a site and pull from its groups: directories,
// tokens, access tokens and the throttle of failed logins.
package login

import (
	"testing"

	// The handler and its guest modules.
	_ "github.com/dependencyproxy/caddy-dependency-proxy"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

func TestMain(m *testing.M) { sitetest.Main(m) }
