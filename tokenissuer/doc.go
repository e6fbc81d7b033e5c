// Package tokenissuer answers one question for a registry: who is it?
//
// A client that has proved who it is gets a short-lived JSON Web Token
// (RFC 7519) that says so, and shows it with each request. An [Issuer] mints
// and verifies these tokens; what their bearer may do is not its business, so
// a token carries a name and no rights, and no secret of any kind.
//
// Tokens are signed with Ed25519 (RFC 8037) by a [KeyRing]. Its keys are files
// in a storage that any number of nodes share: content-addressed, written once
// and never overwritten, so that nodes need neither locks nor each other. Each
// node that lists the same keys picks the same signer; keys rotate, and an old
// one goes on verifying until the last token that it may have signed is dead.
//
// [ParseScopes] reads what clients ask for in a token request. The package
// reads no environment, writes no log and starts no goroutine: it returns
// errors and calls optional [Hooks].
package tokenissuer
