// Package tokenissuer issues and verifies the tokens with which clients of a
// registry prove their identity.
//
// After a login, a client gets a short-lived JSON Web Token (RFC 7519), which it
// sends with each request. [Issuer.Mint] creates these tokens and
// [Issuer.Verify] checks them. A token contains an [Identity]. It contains no
// permissions and no secret: what the client may do is decided for each request.
//
// Tokens are signed with Ed25519 (RFC 8037). The signing keys are files in a
// [Storage] that all nodes of a cluster share. A file is named after its
// content, written once and never overwritten, so the nodes need no locks and no
// connection to each other. All nodes that have listed the same keys sign with
// the same one. Keys are rotated, and an old key verifies tokens until the last
// token that it may have signed has expired. To revoke a key and all tokens that
// it signed, delete its file.
//
// [Issuer.MintPeer] creates the tokens with which the nodes of a cluster ask each other.
//
// [Issuer.Seal] hands a text to a client that must neither read nor change it, with a
// key that is derived from the signing key.
//
// [ParseScopes] parses the scopes of a token request.
//
// The package does not log and reads no environment variables: it returns errors
// and calls optional [Hooks]. Its goroutines only access the storage for callers
// that wait for it, with a timeout.
package tokenissuer
