package admin

import (
	"net/http"
	"slices"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// byAdmin is who made or revoked a token through the admin API.
const byAdmin = "admin API"

// createRequest is the body of a POST to /dependency_proxy/tokens.
type createRequest struct {
	access.TokenRequest
	// Site is the name of the site that the token is to be good at; it may be
	// left out where all sites have the same.
	Site *string `json:"site,omitempty"`
}

// CreatedToken is the answer: the only one that has a secret in it.
type CreatedToken struct {
	Secret string `json:"token"`
	accesstoken.Token
}

// TokenList is the answer to a GET of /dependency_proxy/tokens.
type TokenList struct {
	Tokens []access.ListedToken `json:"tokens"`
}

func createToken(r *http.Request) (int, any, error) {
	var order createRequest
	if err := ReadRequest(r, &order); err != nil {
		return 0, nil, err
	}
	site, err := siteNamed(order.Site)
	if err != nil {
		return 0, nil, err
	}
	token, secret, err := site.Tokens.Create(r.Context(), order.TokenRequest, byAdmin)
	return http.StatusCreated, CreatedToken{secret, token}, err
}

// listTokens lists the tokens of all sites, those that are gone too.
func listTokens(r *http.Request) (int, any, error) {
	query, err := ParseQuery(r, "site", "account", "group")
	if err != nil {
		return 0, nil, err
	}
	sites, err := sitesNamed(nil) // they share their storage
	if err != nil {
		return 0, nil, err
	}
	name, account, group := siteParameter(query), query.Get("account"), query.Get("group")
	for _, name := range []string{"account", "group"} {
		if query.Has(name) && query.Get(name) == "" {
			return 0, nil, access.Errorf("the parameter '%s' is empty; give it a value, or leave it out to list all", name)
		}
	}
	tokens, err := sites[0].Tokens.List(r.Context(), func(t accesstoken.Token) bool {
		return (name == nil || t.Site == *name) && (account == "" || t.Owner != nil && (t.Owner.Name == account || access.OwnerID(t.Owner).String() == account)) &&
			(group == "" || slices.Contains(t.Groups, group))
	}, managersOf(sites)...)
	return http.StatusOK, TokenList{tokens}, err
}

func revokeToken(r *http.Request) (int, any, error) {
	if _, err := ParseQuery(r); err != nil {
		return 0, nil, err
	}
	id := strings.TrimPrefix(r.URL.Path, tokensPath+"/")
	if !accesstoken.IsID(id) {
		return 0, nil, access.RequestError("an access token's id is 16 lower-case letters and digits; `caddy dependency-proxy token revoke` takes the token itself too")
	}
	sites, err := sitesNamed(nil)
	if err != nil {
		return 0, nil, err
	}
	token, err := sites[0].Tokens.Revoke(r.Context(), id, byAdmin, func(accesstoken.Token) bool { return true })
	return http.StatusOK, token, err
}

func managersOf(sites []*Site) (managers []*access.Tokens) {
	for _, s := range sites {
		managers = append(managers, s.Tokens)
	}
	return managers
}
