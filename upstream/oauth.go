package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// identityUser is the user name with which Docker stores an identity token, a
	// refresh token of the token service, in place of a password.
	identityUser = "<token>"

	// clientID is the client_id of OAuth2 requests, which the specification
	// requires and services log.
	clientID = "dependency-proxy"

	// maxPostRealms is the number of token services that are known to want POST.
	maxPostRealms = 64
)

// isIdentityToken reports whether the password of the login is an identity token.
func (s sentLogin) isIdentityToken() bool { return s.login.Username == identityUser }

func newPostRealms() *lru.Cache[string, struct{}] {
	realms, err := lru.New[string, struct{}](maxPostRealms)
	if err != nil {
		panic(err) // only for a size below one
	}
	return realms
}

// wantsPost reports whether a token request with the login is sent as POST.
func (r *Registry) wantsPost(realm string, login sentLogin) bool {
	return login.isIdentityToken() || login != (sentLogin{}) && r.postRealms.Contains(realm)
}

// requestToken sends a token request with a login. An anonymous request is a GET,
// the form that every token service supports, and so is one with a user name and a
// password, unless the service refuses GET and accepts the login by POST. That is tried
// once per probePeriod, and remembered by the realm until the service does not know
// POST. An identity token needs POST.
func (r *Registry) requestToken(ctx context.Context, c *call, wanted tokenRequest, login sentLogin) (*response, error) {
	realm := wanted.challenge.realm.String()
	if r.wantsPost(realm, login) {
		resp, err := r.postToken(ctx, c, wanted, login)
		if err != nil || login.isIdentityToken() || !lacksMethod(resp) {
			return resp, err
		}
		discard(resp.Body)
		r.postRealms.Remove(realm) // the service is another one now
	}
	resp, err := r.getToken(ctx, c, wanted, login)
	if err != nil || login == (sentLogin{}) || !mayWantPost(resp) {
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
func (r *Registry) tryPost(ctx context.Context, c *call, wanted tokenRequest, login sentLogin) (*response, error) {
	scope := wanted.repository
	wanted.repository = ""
	resp, err := r.postToken(ctx, c, wanted, login)
	if err == nil && resp.StatusCode == http.StatusBadRequest && scope != "" {
		discard(resp.Body)
		wanted.repository = scope
		resp, err = r.postToken(ctx, c, wanted, login)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	anonymous, err := r.postToken(ctx, c, wanted, sentLogin{})
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

// getToken sends a token request as GET (distribution, "Token Authentication
// Specification").
func (r *Registry) getToken(ctx context.Context, c *call, wanted tokenRequest, login sentLogin) (*response, error) {
	target := *wanted.challenge.realm
	query := target.Query()
	for key, values := range wanted.parameters() {
		query[key] = values
	}
	target.RawQuery = query.Encode()
	return r.follow(ctx, c, newTrail(&target), login.header())
}

// postToken sends a token request with a login as POST (distribution, "OAuth2 Token
// Authentication"). It follows no redirect, because the body contains the login.
func (r *Registry) postToken(ctx context.Context, c *call, wanted tokenRequest, login sentLogin) (*response, error) {
	form := wanted.parameters()
	form.Set("client_id", clientID)
	if login.isIdentityToken() {
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", string(login.login.Password))
	} else {
		form.Set("grant_type", "password")
		form.Set("username", login.login.Username)
		form.Set("password", string(login.login.Password))
	}
	post := c.withMethod(http.MethodPost)
	post.header = c.header.Clone()
	post.header.Set("Content-Type", "application/x-www-form-urlencoded")
	post.form = form
	return r.follow(ctx, post, newTrail(wanted.challenge.realm), "")
}

// parameters returns the parameters of a token request that GET and POST share.
func (t tokenRequest) parameters() url.Values {
	values := url.Values{}
	if t.challenge.service != "" {
		values.Set("service", t.challenge.service)
	}
	if t.repository != "" {
		values.Set("scope", "repository:"+t.repository+":pull")
	}
	return values
}
