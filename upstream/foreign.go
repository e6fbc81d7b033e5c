package upstream

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
)

// A gateway redirects pulls to another registry, which may ask for a token of its
// own. The client then obtains one there anonymously: the login belongs to the
// gateway. Such a token is remembered by the origin and the gateway's repository,
// so that later pulls carry it at once.

// foreignKey returns the key of the token for the origin to which a redirect has
// led. No repository name equals it, because it contains a blank.
func foreignKey(c *call, way *trail) string { return originOf(way.target) + " " + c.repository }

// foreignToken returns the remembered anonymous token for the origin to which a
// redirect has led, or nil.
func (r *Registry) foreignToken(c *call, way *trail) *token {
	if c.tokenService || way.plain {
		return nil
	}
	return r.tokens.valid(foreignKey(c, way), r.now())
}

// answerForeign answers the challenge in a 401 of the origin to which a redirect
// has led, and reports whether the request should be sent there again. It answers
// each origin once per call, so that the number of requests is bounded. It leaves
// the response alone unless it returns true or an error.
func (r *Registry) answerForeign(ctx context.Context, c *call, resp *response) (again bool, err error) {
	way := resp.trail
	challenge := r.foreignChallenge(c, resp)
	if challenge == nil {
		return false, nil
	}
	discard(resp.Body)
	key, origin := foreignKey(c, way), originOf(way.target)
	if way.anonymous != nil {
		r.tokens.drop(key, way.anonymous)
	}
	if slices.Contains(way.answered, origin) || len(way.answered) == maxForeignAnswers {
		return false, r.newError(c, Denied, http.StatusUnauthorized, "access denied by "+way.target.Host+
			", to which the registry redirects; the repository does not exist there or is private")
	}
	way.answered = append(way.answered, origin)
	if r.foreignToken(c, way) != nil {
		return true, nil // another call has obtained it
	}
	_, err = r.obtainToken(ctx, c, tokenRequest{key: key, challenge: challenge, repository: challenge.repository, anonymous: true})
	return err == nil, err
}

// foreignChallenge returns the challenge in a 401 of a foreign origin, or nil if it
// has none that can be answered there. After a redirect to plain http, anybody on
// the network path could have sent it.
func (r *Registry) foreignChallenge(c *call, resp *response) *acceptedChallenge {
	if c.tokenService || resp.plain {
		return nil
	}
	for _, ch := range header.ParseChallenges(resp.Header.Values("WWW-Authenticate")) {
		realm, err := parseRealm(ch.Params["realm"])
		if ch.Scheme != "bearer" || err != nil || resp.target.Scheme == "https" && realm.Scheme == "http" {
			continue
		}
		repository := header.PullScope(ch.Params["scope"])
		if repository == "" {
			repository = foreignRepository(c, resp.target.Path)
		}
		if repository != "" {
			return &acceptedChallenge{bearer: true, realm: realm, service: ch.Params["service"], repository: repository}
		}
	}
	return nil
}

// foreignRepository returns the repository in the path to which a call has been
// redirected, or "" if that is not the path of a registry.
func foreignRepository(c *call, path string) string {
	_, path, _ = strings.Cut(path, "/v2/")
	repository, ok := strings.CutSuffix(path, "/"+c.path)
	if !ok {
		return ""
	}
	return header.PullScope("repository:" + repository + ":pull")
}
