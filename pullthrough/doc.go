// Package pullthrough serves one repository of an upstream registry as one
// group sees it: from the cache where the repository is known to contain the
// content, otherwise from upstream, and from the cache again while upstream
// fails.
//
// A digest is not a capability. [Repository] returns stored content only if
// upstream has delivered it to this repository, or has delivered it to another
// one and confirmed that this one contains it too. Whatever else the cache holds
// is treated as absent.
//
// Other processes of a cluster ([Config.Peers]) and copies of the cache
// ([Config.Replicas]) are asked before upstream. A peer vouches that upstream has
// confirmed for this repository what it sends. A replica vouches for nothing.
//
// Tags are trusted for a configured time and then asked about again, by HEAD,
// which registries do not count as a pull. A tag that has moved is recorded only
// after its new content has been stored, so that the old image can be pulled
// until then.
//
// The package knows neither HTTP handlers nor Caddy. It does not log: what does
// not fail a pull is reported to [Hooks].
package pullthrough
