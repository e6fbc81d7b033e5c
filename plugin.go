// Package dependencyproxy is the plugin: the package that
//
//	xcaddy build --with github.com/dependencyproxy/caddy-dependency-proxy
//
// names. It registers the `dependency_proxy` directive and its guest modules:
// the directories of accounts and the storages.
package dependencyproxy

import (
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/authentication"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/gitlab"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/ldap"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/oidc"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage/s3"
)
