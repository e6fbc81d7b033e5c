// Package accesstoken keeps the access tokens that a registry makes itself:
// secrets that stand for an account or for a group, until they expire or are
// revoked.
//
// A secret is shown once, by [Store.Create]. What is kept is a [Token], which
// says who and what for, under the secret's SHA-256: a fast hash is right,
// since 192 random bits leave nothing to guess, where passwords need a slow
// one. The token's id is the beginning of that hash, so whoever finds a secret
// can tell which one it is, and nobody can make a secret for an id.
//
// Tokens are files in a storage that any number of nodes share: named by their
// content, written once and never overwritten. To revoke one is to put a
// tombstone beside it, which wins however late a listing is. A [Store] believes
// what it has read for [CacheFor] at most, so that is how long another node's
// revocation takes; its own counts at once. Nothing is answered from memory for
// longer, and a storage that cannot answer lets nobody in.
//
// The package reads no environment, writes no log and starts no goroutine of
// its own: it returns errors and calls optional [Hooks].
package accesstoken
