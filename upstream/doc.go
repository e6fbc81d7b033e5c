// Package upstream implements a pull-only client for one container registry,
// according to the OCI distribution specification v1.1.
//
// A [Registry] fetches manifests, blobs, tag lists and referrers. With a login, it
// asks for /v2/ first; without one, its first request carries no token. The 401
// response teaches it the registry's challenge, which it remembers, so each further
// repository costs one token request and no 401. Tokens are cached per repository
// for most of their lifetime, and concurrent callers that need the same token share
// one request. A registry to which a redirect leads is asked with an anonymous token
// of its own.
//
// Registries and token services answer 401 or 403 for a repository that the login
// may not read, and for a login that is wrong. The client asks them about the login
// itself, at most once a minute, to tell these apart.
//
// [Mirrors] is a client for a registry with several addresses, which it asks in
// order if one cannot answer.
//
// Other packages make the decisions that need no request: auth chooses the challenge and
// the token services that may receive the login, circuit decides whether an address that
// fails is asked, ratelimit reads the limits that registries announce, mediatype decides
// the media type of a manifest, and dial refuses private addresses.
//
// The package does not trust the registry. Every response is limited in size or
// checked against its digest by the caller. Redirects are limited in number and
// lose the credentials when they leave the registry, and a transport from
// [dial.NewTransport] does not connect to private addresses. Credentials are sent only
// to the registry and to a token service that may receive them.
//
// The package does not log, cache content or repeat a request at a registry that
// fails. Failures are returned as an [*Error], whose [Kind] tells the cause and whose
// text contains no credential, token or URL. When the caller's context ends, the
// error wraps the context's error and is not an [*Error].
//
// The files by their prefixes:
//
//	registry              the client: its configuration, hooks and state
//	mirrors               several addresses, and when an address that fails is asked
//	manifest, blob, tags, referrers
//	                      the operations
//	head                  which responses to HEAD requests are trusted
//	request, response     a request and its redirects, and reading what comes back
//	auth                  the answer to a 401: logins and tokens, and which of them was refused
//	errors                the error that all operations return
package upstream
