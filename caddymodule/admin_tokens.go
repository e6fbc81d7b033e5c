package caddymodule

import (
	"net/http"
	"slices"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/accesstoken"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
)

// byAdmin is who made or revoked a token through the admin API.
const byAdmin = "admin API"

// adminTokenOrder is the body of a POST to /dependency_proxy/tokens.
type adminTokenOrder struct {
	access.TokenRequest
	// Site is the name of the site that the token is to be good at; it may be
	// left out where all sites have the same.
	Site *string `json:"site,omitempty"`
}

// madeToken is the answer: the only one that has a secret in it.
type madeToken struct {
	Secret string `json:"token"`
	accesstoken.Token
}

// tokenList is the answer to a GET of /dependency_proxy/tokens.
type tokenList struct {
	Tokens []access.ListedToken `json:"tokens"`
}

func adminMakeToken(r *http.Request) (int, any, error) {
	var order adminTokenOrder
	if err := readOrder(r, &order); err != nil {
		return 0, nil, err
	}
	h, err := adminSite(order.Site)
	if err != nil {
		return 0, nil, err
	}
	token, secret, err := h.tokens.Create(r.Context(), order.TokenRequest, byAdmin)
	return http.StatusCreated, madeToken{secret, token}, err
}

// adminListTokens lists the tokens of all sites, those that are gone too.
func adminListTokens(r *http.Request) (int, any, error) {
	query, err := adminQuery(r, "site", "account", "group")
	if err != nil {
		return 0, nil, err
	}
	handlers, err := adminSites(nil) // they share their storage
	if err != nil {
		return 0, nil, err
	}
	site, account, group := siteOf(query), query.Get("account"), query.Get("group")
	for _, name := range []string{"account", "group"} {
		if query.Has(name) && query.Get(name) == "" {
			return 0, nil, access.Errorf("the parameter '%s' is empty; give it a value, or leave it out to list all", name)
		}
	}
	tokens, err := handlers[0].tokens.List(r.Context(), func(t accesstoken.Token) bool {
		return (site == nil || t.Site == *site) && (account == "" || t.Owner != nil && (t.Owner.Name == account || access.OwnerID(t.Owner).String() == account)) &&
			(group == "" || slices.Contains(t.Groups, group))
	}, managersOf(handlers)...)
	return http.StatusOK, tokenList{tokens}, err
}

func adminRevokeToken(r *http.Request) (int, any, error) {
	if _, err := adminQuery(r); err != nil {
		return 0, nil, err
	}
	id := strings.TrimPrefix(r.URL.Path, tokensPath+"/")
	if !accesstoken.IsID(id) {
		return 0, nil, access.RequestError("an access token's id is 16 lower-case letters and digits; `caddy dependency-proxy token revoke` takes the token itself too")
	}
	handlers, err := adminSites(nil)
	if err != nil {
		return 0, nil, err
	}
	token, err := handlers[0].tokens.Revoke(r.Context(), id, byAdmin, func(accesstoken.Token) bool { return true })
	return http.StatusOK, token, err
}

func managersOf(handlers []*Handler) (managers []*access.Tokens) {
	for _, h := range handlers {
		managers = append(managers, h.tokens)
	}
	return managers
}
