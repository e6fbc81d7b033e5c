package caddymodule

import (
	"net/http"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
)

// serveGroupTokens lists, creates and revokes the access tokens of a group, for its
// owners.
func (ex *exchange) serveGroupTokens() *apiError {
	ctx, tokens, ofGroup := ex.r.Context(), ex.handler.tokens, ex.handler.tokens.OfGroup(ex.route.group)
	switch {
	case ex.route.token != "":
		token, err := tokens.Revoke(ctx, ex.route.token, ex.caller.ID().String(), ofGroup)
		if err != nil {
			return ex.requestError(err)
		}
		return ex.sendValue(http.StatusOK, token)
	case ex.r.Method == http.MethodPost:
		var request access.GroupTokenRequest
		if err := admin.ReadRequest(ex.r, &request); err != nil {
			return ex.requestError(err)
		}
		token, secret, err := tokens.CreateOfGroup(ctx, ex.caller, ex.route.group, request)
		if err != nil {
			return ex.requestError(err)
		}
		return ex.sendValue(http.StatusCreated, admin.CreatedToken{Secret: secret, Token: token})
	}
	list, err := tokens.List(ctx, ofGroup)
	if err != nil {
		return ex.requestError(err)
	}
	return ex.sendValue(http.StatusOK, admin.TokenList{Tokens: list})
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
