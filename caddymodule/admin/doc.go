// Package admin has the module admin.api.dependency_proxy, which extends Caddy's
// admin API, and the commands `caddy dependency-proxy`, which are its clients.
//
// They create, list and revoke access tokens, explain the decision about a pull,
// and show and check the cache. Caddy's admin API does not authenticate its clients:
// everybody who can reach it can do all of this.
//
// A process has one admin API, which does not belong to a configuration. A handler
// therefore calls [Register] with a [Site] when it is provisioned, and [Unregister]
// when it is cleaned up.
package admin
