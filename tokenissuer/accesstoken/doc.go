// Package accesstoken creates, verifies and revokes the access tokens of a
// registry: secrets that stand for an account or a group until they expire or
// are revoked.
//
// [Store.Create] returns the secret of a token, which is stored nowhere. What is
// stored is a [Token], under the SHA-256 of the secret. A fast hash is sufficient
// because a secret has 192 random bits; only passwords need a slow one. The ID of
// a token is the beginning of that hash. It can be computed from the secret, but
// the secret cannot be found from it.
//
// Tokens are files in a [Storage] that all nodes of a cluster share. A token's
// file is named after the hash, written once and never overwritten. A token is
// revoked by a second file, which takes effect even where listings are delayed. A
// [Store] remembers what it has read for 30 seconds, so the revocation by another
// node takes up to that long. Its own take effect at once. If the storage does
// not answer, a token that is not remembered is not accepted.
//
// The package does not log and reads no environment variables: it returns errors
// and calls optional [Hooks]. Its goroutines only access the storage for callers
// that wait for it, with a timeout.
package accesstoken
