// Package admin is the administration of sites with dependency_proxy: the module
// admin.api.dependency_proxy, which extends Caddy's admin API, and the commands
// `caddy dependency-proxy`, which are its clients.
//
// Through it access tokens are created, listed and revoked, the decision about a
// pull is explained, and the cache is shown and checked. Caddy's admin endpoint
// authenticates nobody: whoever can reach it may do all of this.
//
// The admin API exists once in a process, without regard to configurations. A
// handler therefore registers itself as a [Site] when it is provisioned, and
// unregisters when it is cleaned up.
package admin
