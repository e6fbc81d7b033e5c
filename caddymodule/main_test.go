package caddymodule

import (
	"os"
	"syscall"
	"testing"

	// The modules that the configurations of the tests name.
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/authentication"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/gitlab"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/ldap"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/oidc"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage/s3"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "print-login" {
		printLogin(os.Args[2], os.Args[3])
		syscall.Exit(0) // at once; with the race detector, os.Exit takes a second
	}
	sitetest.Main(m)
}
