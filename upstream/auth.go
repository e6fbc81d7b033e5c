package upstream

import (
	"context"
	"errors"
	"net/http"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
)

// authorization is the Authorization header of a request and its origin.
type authorization struct {
	header    string          // "" for none
	login     sentLogin       // in the header; none if it is a bearer token
	token     *auth.Token     // nil unless header is a bearer token
	fresh     bool            // the token was fetched for this request
	challenge *auth.Challenge // the challenge that the token answers
	refusal   error           // of the token service, which refused a token
	unknown   error           // of the registry, which could not tell its challenge
}

// initialAuthorization returns the authorization for the first request of a
// call: the answer to the registry's last challenge. Without one so far, it is none,
// unless there is a login: the registry is then asked for its challenge first,
// because it may hide what anonymous clients may not see. If the token service cannot
// answer, the registry is asked for its challenge again. If the token service refuses a
// token for the repository, the first request is sent without one: the challenge to it
// may name the scope under which the token service knows the repository.
func (r *Registry) initialAuthorization(ctx context.Context, c *call) (authorization, error) {
	var unknown error
	if r.challenge.Load() == nil && r.login != nil {
		unknown = r.learnChallenge(ctx, c)
	}
	challenge := r.challenge.Load()
	if challenge == nil {
		return authorization{unknown: unknown}, nil
	}
	answer, err := r.authorize(ctx, c, challenge)
	if challenge.IsBearer() && err != nil {
		if other := r.otherChallenge(ctx, c, challenge, err); other != nil {
			r.challenge.Store(other)
			challenge = other
			answer, err = r.authorize(ctx, c, challenge)
		}
	}
	if challenge.IsBearer() && KindOf(err) == Denied {
		return authorization{challenge: challenge, refusal: err}, nil
	}
	return answer, err
}

// authorize returns the authorization that answers a challenge.
func (r *Registry) authorize(ctx context.Context, c *call, challenge *auth.Challenge) (authorization, error) {
	if !challenge.IsBearer() {
		login, err := r.currentLogin(ctx, c)
		if err == nil && login.login.IsIdentityToken() {
			err = r.newError(c, Withheld, 0, "the registry asks for a user name and a password, but the configured login is an identity token")
		}
		return authorization{header: login.login.Header(), login: login}, err
	}
	t, fresh, err := r.token(ctx, c, challenge)
	if err != nil {
		return authorization{}, err
	}
	return authorization{header: t.Header(), token: t, fresh: fresh, challenge: challenge}, nil
}

// answerChallenge returns the authorization for the next attempt after the
// registry responded with 401 to a request that carried used.
func (r *Registry) answerChallenge(ctx context.Context, c *call, h http.Header, used authorization) (authorization, error) {
	challenge, err := r.selectChallenge(c, h)
	if err != nil {
		return authorization{}, err
	}
	if used.token != nil {
		r.tokens.Drop(c.repository, used.token)
	}
	switch {
	case used.refusal != nil && challenge.SameToken(used.challenge):
		return r.authorizeAs(ctx, c, challenge, used.refusal)
	case used.fresh && challenge.SameToken(used.challenge):
		denied := r.newError(c, Denied, http.StatusUnauthorized, "access denied; the repository does not exist or is private")
		if used.token.Repository != c.repository {
			r.tokens.Forget(c.repository)
			return authorization{}, denied
		}
		return r.authorizeAs(ctx, c, challenge, denied)
	case !challenge.IsBearer() && r.login == nil:
		return authorization{}, r.newError(c, Denied, http.StatusUnauthorized, "access denied; the registry requires a login, and none is configured")
	case !challenge.IsBearer() && used.login != sentLogin{}:
		return r.replaceLogin(ctx, c, used.login, http.StatusUnauthorized)
	}
	r.challenge.Store(challenge)
	answer, err := r.authorize(ctx, c, challenge)
	if challenge.IsBearer() && KindOf(err) == Denied {
		return r.authorizeAs(ctx, c, challenge, err)
	}
	return answer, err
}

// replaceLogin returns the authorization with a newer login than a refused one, or
// the error of the refusal, which had the given status, if there is none.
func (r *Registry) replaceLogin(ctx context.Context, c *call, refused sentLogin, status int) (authorization, error) {
	login, ok, err := r.newerLogin(ctx, c, refused)
	if err == nil && !ok {
		err = r.rejectedLogin(c, status)
	}
	return authorization{header: login.login.Header(), login: login}, err
}

// authorizeAs is authorize with the scope of the challenge in place of that of the
// repository, which was refused: a gateway may call its repositories otherwise
// than its token service. It returns the refusal if the challenge has no other
// scope to pull a repository. The scope is remembered for the repository.
func (r *Registry) authorizeAs(ctx context.Context, c *call, challenge *auth.Challenge, refusal error) (authorization, error) {
	if challenge.Repository == "" || challenge.Repository == c.repository {
		return authorization{}, refusal
	}
	t, err := r.obtainToken(ctx, c, tokenRequest{auth.Request{Challenge: challenge, Repository: challenge.Repository}, c.repository, false})
	if err != nil {
		return authorization{}, err
	}
	return authorization{header: t.Header(), token: t, fresh: true, challenge: challenge}, nil
}

// selectChallenge returns the challenge in a 401 that the client can answer.
func (r *Registry) selectChallenge(c *call, h http.Header) (*auth.Challenge, error) {
	challenge, err := r.realms.Select(header.ParseChallenges(h.Values("WWW-Authenticate")))
	var withheld *auth.WithheldError
	switch {
	case err == nil:
		return challenge, nil
	case errors.As(err, &withheld):
		return nil, r.newError(c, Withheld, http.StatusUnauthorized, err.Error())
	case errors.Is(err, auth.ErrUnsupported):
		return nil, r.newError(c, Denied, http.StatusUnauthorized, "access denied without a supported challenge")
	}
	return nil, r.newError(c, Invalid, http.StatusUnauthorized, err.Error())
}

// sentLogin is a login that is part of a request. Its zero value is no login.
type sentLogin struct {
	login   auth.Login
	renewed bool // another login was refused in the same call
}

// currentLogin returns the login to send, or none if the registry is used
// anonymously.
func (r *Registry) currentLogin(ctx context.Context, c *call) (sentLogin, error) {
	if r.login == nil {
		return sentLogin{}, nil
	}
	login, err := r.askLogin(ctx, c, nil)
	return sentLogin{login: login}, err
}

// newerLogin returns the login to send instead of a refused one. It reports false
// if the source has no other, or has been asked in this call before.
func (r *Registry) newerLogin(ctx context.Context, c *call, refused sentLogin) (sentLogin, bool, error) {
	if r.login == nil || refused.renewed || refused == (sentLogin{}) {
		return refused, false, nil
	}
	login, err := r.askLogin(ctx, c, &refused.login)
	if err != nil || login == refused.login {
		return refused, false, err
	}
	return sentLogin{login: login, renewed: true}, true, nil
}

// askLogin asks the source of the login. A source that has no valid login makes
// the call fail with [Withheld]: the administrator has to act.
func (r *Registry) askLogin(ctx context.Context, c *call, refused *auth.Login) (auth.Login, error) {
	login, err := r.login(ctx, refused)
	if err == nil {
		err = login.Check()
	}
	switch {
	case err == nil:
		return login, nil
	case ctx.Err() != nil:
		return auth.Login{}, r.transportError(ctx, c, err)
	}
	e := r.newError(c, Withheld, 0, "the configured login cannot be obtained")
	e.cause = errors.New(err.Error()) // only the text: it may wrap the end of a context of the source
	return auth.Login{}, e
}

// rejectedLogin returns the error of a login that the registry has refused with a
// status.
func (r *Registry) rejectedLogin(c *call, status int) *Error {
	return r.newError(c, Credentials, status, "the registry rejected the configured credentials")
}
