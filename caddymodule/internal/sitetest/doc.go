// Package sitetest runs a Caddy in the process of a test, with a site that has the directive
// dependency_proxy, and speaks HTTP to it as clients do. It knows nothing of the handler but
// its Caddyfile, its contract and its admin API.
//
// [Start] runs Caddy with lines of a Caddyfile, most of which functions such as [Hub], [Users]
// and [Private] return, and [Site.Load] reloads it. Requests are made by [Site.Get] with
// options such as [As], and checked by the methods of [Answer]. Each test checks at its end
// that nothing of the site is left and that its log has no secret.
//
// A process has one Caddy, so tests with a site cannot be parallel; their packages can. Each
// package calls [Main] in its TestMain, and imports the modules that its sites need.
package sitetest
