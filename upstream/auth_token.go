package upstream

import (
	"context"
	"errors"
	"net/http"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/flight"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

const (
	maxTokenResponse = 1 << 20 // in bytes

	// maxPostRealms is the number of token services that are known to want POST.
	maxPostRealms = 64
)

// tokenRequest describes a token.
type tokenRequest struct {
	auth.Request
	key       string // in the cache
	anonymous bool   // the login must not be sent
}

// token returns a token to pull c's repository, and whether it was fetched by
// this call. It is a token for the repository's own name, unless the registry has
// refused that and accepted the scope of its challenge. That scope is forgotten if
// the token service refuses it.
func (r *Registry) token(ctx context.Context, c *call, challenge *auth.Challenge) (t *auth.Token, fresh bool, err error) {
	if t := r.tokens.Valid(c.repository, r.now()); t != nil {
		return t, false, nil
	}
	wanted := tokenRequest{auth.Request{Challenge: challenge, Repository: c.repository}, c.repository, false}
	if accepted, ok := r.tokens.Repository(c.repository); ok {
		wanted.Repository = accepted
	}
	t, err = r.obtainToken(ctx, c, wanted)
	if wanted.Repository != c.repository && KindOf(err) == Denied {
		r.tokens.Forget(c.repository)
		wanted.Repository = c.repository
		t, err = r.obtainToken(ctx, c, wanted)
	}
	return t, err == nil, err
}

// obtainToken requests a token and stores it in the cache. Concurrent calls for
// the same token share one request. The request does not end with ctx, so that a
// caller that leaves does not fail the others, but after the registry's timeout.
// Failures are not cached.
func (r *Registry) obtainToken(ctx context.Context, c *call, wanted tokenRequest) (*auth.Token, error) {
	realm := wanted.Challenge.Realm
	key := realm.String() + "\x00" + wanted.Challenge.Service + "\x00" + wanted.Repository + "\x00" + wanted.key
	fetched := flight.Start(ctx, &r.tokenFetches, key, func(ctx context.Context) (*auth.Token, error) {
		ctx, cancel := r.withTimeout(ctx)
		defer cancel()
		t, err := r.fetchToken(ctx, c.repository, wanted)
		if r.hooks.Token != nil {
			r.hooks.Token(realm.Host, err)
		}
		if err != nil {
			return nil, err
		}
		r.tokens.Add(wanted.key, t)
		return t, nil
	})
	select {
	case <-ctx.Done():
		return nil, r.transportError(ctx, c, ctx.Err())
	case result := <-fetched:
		return flight.Value[*auth.Token](result)
	}
}

// fetchToken requests a token. The repository is that of the call, for errors.
func (r *Registry) fetchToken(ctx context.Context, repository string, wanted tokenRequest) (*auth.Token, error) {
	c := &call{
		method:       http.MethodGet,
		repository:   repository,
		header:       http.Header{"Accept": {"application/json"}},
		object:       "token from " + wanted.Challenge.Realm.Host,
		notFound:     Invalid,
		tokenService: true,
	}
	resp, err := r.askTokenService(ctx, c, wanted)
	if err != nil {
		return nil, err
	}
	content, err := r.readAll(ctx, c, resp, maxTokenResponse)
	if err != nil {
		return nil, err
	}
	t, err := wanted.ParseToken(content, r.now())
	if err != nil {
		return nil, r.newError(c, Invalid, resp.StatusCode, err.Error())
	}
	return t, nil
}

// askTokenService sends a token request with the login, unless it is anonymous, and
// returns a response with status 200. If the service refuses the login, and the
// source has a newer one, the request is repeated.
func (r *Registry) askTokenService(ctx context.Context, c *call, wanted tokenRequest) (*response, error) {
	var login sentLogin
	if !wanted.anonymous {
		var err error
		if login, err = r.currentLogin(ctx, c); err != nil {
			return nil, err
		}
	}
	for {
		resp, err := r.requestToken(ctx, c, wanted.Request, login.login)
		if err != nil || resp.StatusCode == http.StatusOK {
			return resp, err
		}
		failure := r.tokenStatusError(c, resp)
		if !r.blamesLogin(ctx, c, wanted.Request, login.login, failure) {
			return nil, failure
		}
		newer, ok, err := r.newerLogin(ctx, c, login)
		if err != nil {
			return nil, err
		}
		if !ok {
			failure.Kind, failure.message = Credentials, c.object+": the token service rejected the configured credentials"
			return nil, failure
		}
		login = newer
	}
}

// blamesLogin reports whether a failed token request means that the token service
// refuses the login itself. Services answer 401 or 403 also for a repository that
// the account may not read; what they answer without a scope decides. If they do
// not support that, 401 is about the login and 403 about the repository.
func (r *Registry) blamesLogin(ctx context.Context, c *call, wanted auth.Request, login auth.Login, failure *Error) bool {
	realm := wanted.Challenge.Realm.String()
	switch {
	case login == (auth.Login{}):
		return false
	case failure.Kind == Denied:
	case failure.Status == http.StatusBadRequest && r.wantsPost(realm, login): // RFC 6749, section 5.2: invalid_grant
	default:
		return false
	}
	answer := r.probe(ctx, "token "+realm+" "+wanted.Challenge.Service, login, func(ctx context.Context) (*response, error) {
		return r.requestToken(ctx, c, auth.Request{Challenge: wanted.Challenge}, login)
	})
	return answer == refused || answer == undecided && failure.Status != http.StatusForbidden
}

// tokenStatusError is statusError for a response of the token service. There, 404
// does not mean that an image is unknown.
func (r *Registry) tokenStatusError(c *call, resp *response) *Error {
	e := r.statusError(c, resp)
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
	case e.Kind == NameUnknown || e.Kind == ManifestUnknown || e.Kind == BlobUnknown || e.Kind == Denied:
		e.Kind = Invalid
	}
	return e
}

func newPostRealms() *lru.Cache[string, struct{}] {
	realms, err := lru.New[string, struct{}](maxPostRealms)
	if err != nil {
		panic(err) // only for a size below one
	}
	return realms
}

// wantsPost reports whether a token request with the login is sent as POST.
func (r *Registry) wantsPost(realm string, login auth.Login) bool {
	return login.IsIdentityToken() || login != (auth.Login{}) && r.postRealms.Contains(realm)
}

// requestToken sends a token request with a login. An anonymous request is a GET,
// the form that every token service supports, and so is one with a user name and a
// password, unless the service refuses GET and accepts the login by POST. That is tried
// once per probePeriod, and remembered by the realm until the service does not know
// POST. An identity token needs POST.
func (r *Registry) requestToken(ctx context.Context, c *call, wanted auth.Request, login auth.Login) (*response, error) {
	realm := wanted.Challenge.Realm.String()
	if r.wantsPost(realm, login) {
		resp, err := r.postToken(ctx, c, wanted, login)
		if err != nil || login.IsIdentityToken() || !lacksMethod(resp) {
			return resp, err
		}
		discard(resp.Body)
		r.postRealms.Remove(realm) // the service is another one now
	}
	resp, err := r.getToken(ctx, c, wanted, login)
	if err != nil || login == (auth.Login{}) || !mayWantPost(resp) {
		return resp, err
	}
	answer := r.probe(ctx, "post "+realm, login, func(ctx context.Context) (*response, error) {
		return r.tryPost(ctx, c, wanted, login)
	})
	if answer != accepted {
		return resp, nil
	}
	discard(resp.Body)
	r.postRealms.Add(realm, struct{}{})
	return r.postToken(ctx, c, wanted, login)
}

// errFormIgnored is the error of a token service that issues a token whatever the form
// of a POST contains.
var errFormIgnored = errors.New("the token service does not read the form")

// tryPost sends a token request as POST and returns the response. The answer counts
// for all repositories, so the request has no scope, which the service may deny,
// unless the service demands one. If the service accepts the login, but also a form
// without one, it has not checked the login: the token is an anonymous one, and the
// error is errFormIgnored.
func (r *Registry) tryPost(ctx context.Context, c *call, wanted auth.Request, login auth.Login) (*response, error) {
	scope := wanted.Repository
	wanted.Repository = ""
	resp, err := r.postToken(ctx, c, wanted, login)
	if err == nil && resp.StatusCode == http.StatusBadRequest && scope != "" {
		discard(resp.Body)
		wanted.Repository = scope
		resp, err = r.postToken(ctx, c, wanted, login)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	anonymous, err := r.postToken(ctx, c, wanted, auth.Login{})
	if err == nil {
		discard(anonymous.Body)
		if anonymous.StatusCode == http.StatusOK {
			err = errFormIgnored
		}
	}
	if err != nil {
		discard(resp.Body)
		return nil, err
	}
	return resp, nil
}

// lacksMethod reports whether a response means that there is no service for the method
// of the request.
func lacksMethod(resp *response) bool {
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return false
}

// mayWantPost reports whether a response to a GET of a token with a login leaves
// open that the service accepts the login with POST.
func mayWantPost(resp *response) bool {
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed:
		return !resp.foreign
	}
	return false
}

// getToken sends a token request as GET.
func (r *Registry) getToken(ctx context.Context, c *call, wanted auth.Request, login auth.Login) (*response, error) {
	return r.follow(ctx, c, newTrail(wanted.URL()), login.Header())
}

// postToken sends a token request with a login as POST. It follows no redirect, because
// the body contains the login.
func (r *Registry) postToken(ctx context.Context, c *call, wanted auth.Request, login auth.Login) (*response, error) {
	post := c.withMethod(http.MethodPost)
	post.header = c.header.Clone()
	post.header.Set("Content-Type", "application/x-www-form-urlencoded")
	post.form = wanted.Form(login)
	return r.follow(ctx, post, newTrail(wanted.Challenge.Realm), "")
}
