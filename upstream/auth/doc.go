// Package auth has what a client needs to answer the challenges of registries, without
// sending anything itself: a [Login] and its source, the choice of a [Challenge], the
// [Request] for a token that answers it, and the [Token] in the response, which [Tokens]
// remembers (distribution, "Token Authentication Specification" and "OAuth2 Token
// Authentication").
//
// A registry names its token service itself, and is not trusted. [Realms] decides which
// services may be asked at all, and which may receive the login. A registry to which
// another one redirects gets anonymous tokens only; see [SelectForeign].
//
// The package upstream sends the requests and decides which of a login, a token or a
// scope is to blame for a refusal.
package auth
