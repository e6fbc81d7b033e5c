// Package header parses the header fields of registries that net/http does not:
// challenges (WWW-Authenticate), links (Link), media types, content codings and
// Retry-After. It also undoes content codings.
//
// Its input comes from registries, which are not trusted: each function bounds what it
// reads and returns, and none fails on malformed input. What is malformed is ignored,
// because a part of it would be worse than nothing.
package header
