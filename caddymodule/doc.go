// Package caddymodule is the Caddy side of the dependency proxy, and the only
// package that knows Caddy.
//
// A pull walks through it in the order of its files: [Handler] takes the
// request, route.go reads its path into a typed value, login.go asks who it
// is (a token, a login, or nobody) behind throttle.go and password.go, which
// bear those who guess, access.go decides whether that account may read the
// group, repository.go turns group and image into one repository of one
// upstream, manifest.go and blob.go answer from the cache or fill it, and
// errors.go words every refusal; audit.go writes down who got in and who did
// not. token.go is the token service that clients are sent to, tokens.go lets
// access tokens of our own in. Storage and directories of accounts are guest
// modules; what outlives a configuration is in pool.go: the open storage, and
// beside it what each group has of it and may have.
//
// Beside the pulls, group.go has what is about a group: its page, its purge and
// its tokens. admin.go answers Caddy's admin endpoint about the sites that
// sites.go knows to run: access tokens, decisions explained, the cache and its
// checks; command.go has the commands that ask it.
package caddymodule
