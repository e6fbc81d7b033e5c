package upstream

import (
	"context"
	"net/http"
	"slices"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/internal/origin"
)

// A gateway redirects pulls to another registry, which may ask for a token of its
// own. The client then obtains one there anonymously: the login belongs to the
// gateway. Such a token is remembered by the origin and the gateway's repository,
// so that later pulls carry it at once.

// foreignKey returns the key of the token for the origin to which a redirect has
// led. No repository name equals it, because it contains a blank.
func foreignKey(c *call, way *trail) string { return origin.Of(way.target) + " " + c.repository }

// foreignToken returns the remembered anonymous token for the origin to which a
// redirect has led, or nil.
func (r *Registry) foreignToken(c *call, way *trail) *auth.Token {
	if c.tokenService || way.plain {
		return nil
	}
	return r.tokens.Valid(foreignKey(c, way), r.now())
}

// answerForeign answers the challenge in a 401 of the origin to which a redirect
// has led, and reports whether the request should be sent there again. It answers
// each origin once per call, so that the number of requests is bounded. If it returns
// neither true nor an error, the body of the response is still open.
func (r *Registry) answerForeign(ctx context.Context, c *call, resp *response) (again bool, err error) {
	way := resp.trail
	challenge := r.foreignChallenge(c, resp)
	if challenge == nil {
		return false, nil
	}
	discard(resp.Body)
	key, address := foreignKey(c, way), origin.Of(way.target)
	if way.anonymous != nil {
		r.tokens.Drop(key, way.anonymous)
	}
	if slices.Contains(way.answered, address) || len(way.answered) == maxForeignAnswers {
		return false, r.newError(c, Denied, http.StatusUnauthorized, "access denied by "+way.target.Host+
			", to which the registry redirects; the repository does not exist there or is private")
	}
	way.answered = append(way.answered, address)
	if r.foreignToken(c, way) != nil {
		return true, nil // another call has obtained it
	}
	_, err = r.obtainToken(ctx, c, tokenRequest{auth.Request{Challenge: challenge, Repository: challenge.Repository}, key, true})
	return err == nil, err
}

// foreignChallenge returns the challenge in a 401 of a foreign origin, or nil if it
// has none that can be answered there. After a redirect to plain http, anybody on
// the network path could have sent it.
func (r *Registry) foreignChallenge(c *call, resp *response) *auth.Challenge {
	if c.tokenService || resp.plain {
		return nil
	}
	return auth.SelectForeign(header.ParseChallenges(resp.Header.Values("WWW-Authenticate")), resp.target, c.path)
}
