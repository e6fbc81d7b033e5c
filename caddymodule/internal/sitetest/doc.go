// Package sitetest runs Caddy in the process of a test, with a site that has the directive
// dependency_proxy, and sends it HTTP requests as clients do. It uses nothing of the handler
// but its Caddyfile, its HTTP contract and its admin API.
//
// [Start] runs Caddy with lines of a Caddyfile, most of which functions such as [Hub], [Users]
// and [Private] return, and [Site.Load] reloads it. Requests are made by [Site.Get] with
// options such as [As], and checked by the methods of [Answer]. Each test checks at its end
// that nothing of the site is left and that its log has no secret.
//
// A process can run only one Caddy, so tests with a site cannot be parallel; their packages
// can. Each package calls [Main] in its TestMain, and imports the modules that its sites need.
package sitetest
