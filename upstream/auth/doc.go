// Package auth implements how a client answers the challenges of registries
// (distribution, "Token Authentication Specification" and "OAuth2 Token Authentication"):
// a [Login] and its [Source], the choice of a [Challenge], the [Request] for a token that
// answers it, and the [Token] in the response, which [Tokens] caches. It sends nothing
// itself.
//
// A registry names its token service itself, and is not trusted. [Realms] decides which
// services may be asked at all, and which may receive the login. A registry to which
// another one redirects gets anonymous tokens only; see [SelectForeign].
//
// Package upstream sends the requests, and decides whether the login, the token or the scope
// is the reason of a refusal.
package auth
