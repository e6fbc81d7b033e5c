// Package upstream is a pull-only client for one container registry, as the
// OCI distribution specification v1.1 describes it.
//
// A [Registry] asks for manifests, blobs, tag lists and referrers. The first
// question goes out without a token; a 401 teaches it the registry's challenge,
// which it remembers, so that every later repository costs one token request
// and no refusal. Tokens are kept per repository for most of their life, and
// many callers that need the same one share a single request.
//
// What comes from upstream is not trusted: every body has a limit or is checked
// by whoever knows its digest, redirects are counted and lose the credentials
// as soon as they leave the registry, and a transport from [NewTransport] does
// not connect to private addresses. Credentials go to the registry and to a
// realm of its own domain, nowhere else.
//
// The package does not log, cache content or retry a failing upstream. It
// returns an [*Error] whose [Kind] says whose fault it was, and whose text holds
// no credential, token or URL. A caller's own cancellation comes back as the
// context's error and never looks like an upstream's fault.
package upstream
