package caddymodule

import (
	"errors"
	"io/fs"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// groupTokenOrder is the body of a POST to /GROUP/dependency_proxy/tokens. The
// group is that of the path.
type groupTokenOrder struct {
	Kind     accesstoken.Kind    `json:"kind,omitempty"` // deploy by default, or group
	Role     string              `json:"role,omitempty"` // of a group token
	Scopes   []accesstoken.Scope `json:"scopes,omitempty"`
	Name     string              `json:"name,omitempty"`
	Lifetime caddy.Duration      `json:"lifetime,omitempty"`
}

// serveGroupTokens lets a group's owner list, make and revoke its tokens.
func (ex *exchange) serveGroupTokens() *apiError {
	ctx, by := ex.r.Context(), ex.caller.ID().String()
	switch {
	case ex.route.token != "":
		token, err := ex.h.tokens.Revoke(ctx, ex.route.token, by, ex.ofGroup)
		if err != nil {
			return ex.fromOrder(err)
		}
		return ex.sendValue(http.StatusOK, token)
	case ex.r.Method == http.MethodPost:
		token, secret, err := ex.orderGroupToken()
		if err != nil {
			return ex.fromOrder(err)
		}
		return ex.sendValue(http.StatusCreated, admin.CreatedToken{Secret: secret, Token: token})
	}
	tokens, err := ex.h.tokens.List(ctx, ex.ofGroup)
	if err != nil {
		return ex.fromOrder(err)
	}
	return ex.sendValue(http.StatusOK, admin.TokenList{Tokens: tokens})
}

// ofGroup tells the tokens that the owner of the group may see and revoke.
func (ex *exchange) ofGroup(t accesstoken.Token) bool {
	return t.Site == ex.h.Name && t.Kind != accesstoken.Personal && slices.Contains(t.Groups, ex.route.group)
}

// orderGroupToken makes a token with at most the rights of its maker. A token that is
// made with an access token ends with it, and a group's token cannot make any.
func (ex *exchange) orderGroupToken() (accesstoken.Token, string, error) {
	if ex.caller.Token != "" && ex.caller.Directory == access.TokensDirectory {
		return accesstoken.Token{}, "", access.RequestError("an access token of a group cannot make others; log in as an owner")
	}
	var order groupTokenOrder
	if err := admin.ReadRequest(ex.r, &order); err != nil {
		return accesstoken.Token{}, "", err
	}
	if order.Kind == "" {
		order.Kind = accesstoken.Deploy
	}
	if order.Kind != accesstoken.Deploy && order.Kind != accesstoken.Group {
		return accesstoken.Token{}, "", access.Errorf("the kind '%s' is neither deploy nor group", order.Kind)
	}
	if err := ex.capLifetime(&order.Lifetime); err != nil {
		return accesstoken.Token{}, "", err
	}
	return ex.h.tokens.Create(ex.r.Context(), access.TokenRequest{
		Kind: order.Kind, Groups: []string{ex.route.group}, Role: order.Role,
		Scopes: order.Scopes, Name: order.Name, Lifetime: order.Lifetime,
		MadeWith: ex.caller.Token,
	}, ex.caller.ID().String())
}

// capLifetime ends what is made with an access token when that ends.
func (ex *exchange) capLifetime(lifetime *caddy.Duration) error {
	if ex.caller.Token == "" {
		return nil
	}
	left := time.Until(ex.caller.Expires).Truncate(time.Second)
	switch {
	case *lifetime == 0:
		*lifetime = caddy.Duration(max(min(left, access.DefaultTokenLife), time.Second))
	case time.Duration(*lifetime) > left:
		return access.Errorf("a token made with the access token %s cannot live longer than it, %v", ex.caller.Token, left)
	}
	return nil
}

// fromOrder words what is wrong with a request about tokens.
func (ex *exchange) fromOrder(err error) *apiError {
	var known caddy.APIError
	var bad access.RequestError
	switch {
	case errors.As(err, &known):
		return refuse(problem{unsupported.code, known.HTTPStatus}, "%v", known.Err)
	case errors.As(err, &bad):
		return refuse(badRequest, "%v", bad)
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, accesstoken.ErrUnavailable):
		return refuse(nameUnknown, "group %s has no such access token", ex.route.group)
	}
	return ex.h.cannotTell("keep access tokens", err)
}
