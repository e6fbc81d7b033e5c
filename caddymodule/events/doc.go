// Package events reports what happens through Caddy's events app.
//
// Most of it happens to values that outlive a configuration, such as a cache that
// several sites share, while the events app belongs to one. Such a value calls
// [Publish] with its [Source]. Each site has an [Emitter] that is subscribed to the
// sources that it uses, and emits the event once, as the module
// http.handlers.dependency_proxy, from a goroutine of its own: Caddy waits for event
// handlers, and pulls must not.
//
// Only the configuration that runs emits. During a reload that is the former one until
// Caddy has started the new one; a configuration that is rejected emits nothing.
//
// The data of an event has these keys. All have the key site, the name of the site. No
// value is a secret.
//
//   - [UpstreamDown]: upstream, endpoint (its host and port), login (the path of the group
//     that has it, or common), error
//   - [UpstreamUp]: upstream, endpoint, login
//   - [BudgetLow]: upstream, endpoint, login, remaining, limit, window (a duration)
//   - [TagMoved]: group, upstream, repository, tag, digest, previous (a digest),
//     media_type
//   - [QuotaTrimmed]: group, links, bytes
//   - [ContentDamaged]: storage, digest, error
//   - [StorageFailing]: storage, operation, error
//   - [TokenMade] and [TokenRevoked]: access_token (its ID), kind, name, groups (with
//     commas between them), account, directory, made_with (the ID of an access
//     token), by
package events
