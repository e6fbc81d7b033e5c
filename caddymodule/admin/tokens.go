package admin

import (
	"net/http"
	"slices"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// byAdmin is recorded as the creator of a token that is created through the admin
// API, and likewise for revocations.
const byAdmin = "admin API"

// createRequest is the body of a POST to /dependency_proxy/tokens.
type createRequest struct {
	access.TokenRequest
	// Site is the name of the site at which the token will be valid. It can be
	// left out if all sites have the same name.
	Site *string `json:"site,omitempty"`
}

// CreatedToken is the response to a createRequest: the only response that contains
// the secret of a token.
type CreatedToken struct {
	Secret string `json:"token"`
	accesstoken.Token
}

// TokenList is the response to a GET of /dependency_proxy/tokens.
type TokenList struct {
	Tokens []access.ListedToken `json:"tokens"`
}

func createToken(r *http.Request) (int, any, error) {
	var request createRequest
	if err := ReadRequest(r, &request); err != nil {
		return 0, nil, err
	}
	site, err := siteNamed(request.Site)
	if err != nil {
		return 0, nil, err
	}
	token, secret, err := site.Tokens.Create(r.Context(), request.TokenRequest, byAdmin)
	return http.StatusCreated, CreatedToken{secret, token}, err
}

// listTokens lists the tokens of all sites, including sites that are not configured
// any more.
func listTokens(r *http.Request) (int, any, error) {
	query, err := ParseQuery(r, "site", "account", "group")
	if err != nil {
		return 0, nil, err
	}
	sites, err := sitesNamed(nil) // they share Caddy's storage
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
		return 0, nil, access.RequestError("invalid ID of an access token; use its 16 lower-case letters and digits, or give `caddy dependency-proxy token revoke` the token itself")
	}
	sites, err := sitesNamed(nil)
	if err != nil {
		return 0, nil, err
	}
	token, err := sites[0].Tokens.Revoke(r.Context(), id, byAdmin, func(accesstoken.Token) bool { return true })
	return http.StatusOK, token, err
}

// managersOf returns the token managers of sites.
func managersOf(sites []*Site) (managers []*access.Tokens) {
	for _, s := range sites {
		managers = append(managers, s.Tokens)
	}
	return managers
}
