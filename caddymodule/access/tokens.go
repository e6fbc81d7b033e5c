package access

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

const (
	// TokensDirectory is the [Caller.Directory] of an access token that stands
	// for a group. No directory of a configuration can have this name.
	TokensDirectory = directory.AccessTokens

	// tokenName, followed by the ID of the token, is the account name of an
	// access token that stands for a group. No configured user has a colon in
	// the name.
	tokenName = "token:"

	// maxParents is the number of tokens before the last one in a chain of
	// tokens that were each made with the one before.
	maxParents = 8

	tooManyParents = "too many access tokens were made with each other"
)

// siteTokens are the access tokens that a site accepts.
type siteTokens struct {
	store     *accesstoken.Store
	site      string
	ambiguous atomic.Bool // see [Accounts.DisableTokens]
}

// byToken returns the account that an access token stands for. That of a
// personal token is its owner, as the directory of the owner knows it now; any
// other token is an account itself. The parameter err is the error of the store,
// if the token could not be found.
func (a *Accounts) byToken(ctx context.Context, token accesstoken.Token, err error) (Caller, error) {
	return a.byChildToken(ctx, token, err, maxParents)
}

// byChildToken is byToken for a token in a chain of at most so many parents. A
// token is only valid as long as its parent, the token that it was made with.
func (a *Accounts) byChildToken(ctx context.Context, token accesstoken.Token, err error, parents int) (Caller, error) {
	switch {
	case accesstoken.IsRefusal(err):
		return Caller{}, fmt.Errorf("%w: %w", directory.ErrWrongPassword, err)
	case err != nil:
		return Caller{}, err
	case token.Site != a.tokens.site:
		return Caller{}, fmt.Errorf("%w: the access token is for another site", directory.ErrWrongPassword)
	case a.tokens.ambiguous.Load():
		return Caller{}, fmt.Errorf("%w: %w", directory.ErrWrongPassword, ErrAmbiguous)
	case token.MadeWith != "" && parents == 0:
		return Caller{}, fmt.Errorf("%w: %s", directory.ErrWrongPassword, tooManyParents)
	case token.MadeWith != "":
		parent, err := a.tokens.store.Peek(ctx, token.MadeWith)
		if _, err = a.byChildToken(ctx, parent, err, parents-1); err != nil {
			return Caller{Directory: TokensDirectory}, fmt.Errorf("access token %s was made with %s: %w", token.ID, token.MadeWith, err)
		}
	}
	var who Caller
	if token.Owner != nil {
		who, err = a.byOwner(ctx, *token.Owner)
	} else {
		who, err = a.admit(Named{Name: TokensDirectory}, groupAccount(token), nil)
	}
	if err != nil {
		return Caller{Directory: who.Directory}, fmt.Errorf("access token %s: %w", token.ID, err)
	}
	who.Token, who.Expires = token.ID, token.Expires
	who.Only = intersect(who.Only, token.Groups)
	who.PullOnly = who.PullOnly || !token.MayManage()
	return who, nil
}

// groupAccount returns the account of a token that stands for a group.
func groupAccount(token accesstoken.Token) directory.Account {
	role, ok := directory.ParseRole(token.Role)
	if !ok {
		role = directory.Member // a deploy token has no role
	}
	roles := make(map[string]directory.Role, 1)
	for _, group := range token.Groups {
		roles[group] = role
	}
	return directory.Account{Name: tokenName + token.ID, Roles: roles}
}

// intersect returns the groups that both limits allow, with their subgroups; nil
// is no limit.
func intersect(a, b []string) []string {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	both := []string{}
	for _, one := range a {
		for _, other := range b {
			switch {
			case within(one, other):
				both = append(both, one)
			case within(other, one):
				both = append(both, other)
			}
		}
	}
	slices.Sort(both)
	return slices.Compact(both)
}
