package caddymodule

// The guests that sites of the tests name.
import (
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/authentication"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/gitlab"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/ldap"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/oidc"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
)
