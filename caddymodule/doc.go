// Package caddymodule has the Caddy module http.handlers.dependency_proxy, an
// authenticated pull-through cache for container images.
//
// [Handler] parses the path of a request (route.go), finds out who sends it
// (identify.go), decides whether that account may read the group (exchange.go)
// and answers from the cache or from the upstream (pull.go, lists.go). It also
// serves the token service (tokenservice.go) and the page, the purge and the
// access tokens of a group (group.go). Errors are worded in errors.go, and
// shared.go has what outlives a configuration.
//
// Package access authenticates and authorizes; the modules below directory know
// the accounts, and those in storage open the cache. Package admin extends Caddy's
// admin API and its commands. Package pullthrough decides what a pull receives,
// with blobcache as its cache and upstream as its client of registries. Package
// tokenissuer issues the tokens of the token service.
package caddymodule
