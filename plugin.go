// Package dependencyproxy is the face of the plugin: the package that
// `xcaddy build --with github.com/dependencyproxy/caddy-dependency-proxy`
// names. It only imports the Caddy module, whose init registers the
// `dependency_proxy` directive, its guest modules and its storage.
package dependencyproxy

import (
	_ "github.com/dependencyproxy/caddy-dependency-proxy/caddymodule"
)
