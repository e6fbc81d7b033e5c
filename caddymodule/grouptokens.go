package caddymodule

import (
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// groupTokenRequest is the body of a POST to /GROUP/dependency_proxy/tokens.
type groupTokenRequest struct {
	Kind     accesstoken.Kind    `json:"kind,omitempty"` // deploy (the default) or group
	Role     string              `json:"role,omitempty"` // of a group token
	Scopes   []accesstoken.Scope `json:"scopes,omitempty"`
	Name     string              `json:"name,omitempty"`
	Lifetime caddy.Duration      `json:"lifetime,omitempty"`
}

// serveGroupTokens lists, creates and revokes the access tokens of a group, for its
// owners.
func (ex *exchange) serveGroupTokens() *apiError {
	ctx, by := ex.r.Context(), ex.caller.ID().String()
	switch {
	case ex.route.token != "":
		token, err := ex.handler.tokens.Revoke(ctx, ex.route.token, by, ex.isGroupToken)
		if err != nil {
			return ex.requestError(err)
		}
		return ex.sendValue(http.StatusOK, token)
	case ex.r.Method == http.MethodPost:
		token, secret, err := ex.createGroupToken()
		if err != nil {
			return ex.requestError(err)
		}
		return ex.sendValue(http.StatusCreated, admin.CreatedToken{Secret: secret, Token: token})
	}
	tokens, err := ex.handler.tokens.List(ctx, ex.isGroupToken)
	if err != nil {
		return ex.requestError(err)
	}
	return ex.sendValue(http.StatusOK, admin.TokenList{Tokens: tokens})
}

// isGroupToken reports whether the owners of the group may see and revoke a token.
func (ex *exchange) isGroupToken(t accesstoken.Token) bool {
	return t.Site == ex.handler.Name && t.Kind != accesstoken.Personal && slices.Contains(t.Groups, ex.route.group)
}

// createGroupToken creates a token with at most the rights of the caller. If the
// caller uses an access token, the new token ends with it. Tokens of a group cannot
// create tokens.
func (ex *exchange) createGroupToken() (accesstoken.Token, string, error) {
	if ex.caller.Token != "" && ex.caller.Directory == access.TokensDirectory {
		return accesstoken.Token{}, "", access.RequestError("an access token of a group cannot create tokens; log in as an owner")
	}
	var request groupTokenRequest
	if err := admin.ReadRequest(ex.r, &request); err != nil {
		return accesstoken.Token{}, "", err
	}
	if request.Kind == "" {
		request.Kind = accesstoken.Deploy
	}
	if request.Kind != accesstoken.Deploy && request.Kind != accesstoken.Group {
		return accesstoken.Token{}, "", access.Errorf("unknown kind '%s'; use deploy or group", request.Kind)
	}
	if err := ex.limitLifetime(&request.Lifetime); err != nil {
		return accesstoken.Token{}, "", err
	}
	return ex.handler.tokens.Create(ex.r.Context(), access.TokenRequest{
		Kind: request.Kind, Groups: []string{ex.route.group}, Role: request.Role,
		Scopes: request.Scopes, Name: request.Name, Lifetime: request.Lifetime,
		MadeWith: ex.caller.Token,
	}, ex.caller.ID().String())
}

// limitLifetime limits the lifetime of a token that the caller creates to that of
// the access token that the caller uses, if any.
func (ex *exchange) limitLifetime(lifetime *caddy.Duration) error {
	if ex.caller.Token == "" {
		return nil
	}
	left := time.Until(ex.caller.Expires).Truncate(time.Second)
	switch {
	case *lifetime == 0:
		*lifetime = caddy.Duration(max(min(left, access.DefaultTokenLife), time.Second))
	case time.Duration(*lifetime) > left:
		return access.Errorf("a token created with the access token %s must not outlive it; use a lifetime of at most %v", ex.caller.Token, left)
	}
	return nil
}

// requestError returns the response to an invalid or failed request about access
// tokens or the cache.
func (ex *exchange) requestError(err error) *apiError {
	e := admin.StatusOf(err)
	switch e.HTTPStatus {
	case http.StatusNotFound:
		return refuse(nameUnknown, "group %s has no such access token", ex.route.group)
	case http.StatusServiceUnavailable:
		return ex.handler.unavailable("manage access tokens", err)
	}
	return refuse(problem{badRequest.code, e.HTTPStatus, badRequest.result}, "%v", e.Err)
}
