package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

const (
	// TokensDirectory is what tokens call the directory that access tokens of
	// our own are. It is always there, and asked first for what is its own.
	TokensDirectory = directory.AccessTokens
	// tokenName, with the id behind it, names the account that a token of a
	// group is. No user of the configuration has a colon in its name.
	tokenName = "token:"
)

// accessTokens are the access tokens that are good at a site.
type accessTokens struct {
	store *accesstoken.Store
	site  string
	// ambiguous is set when another site has the same name and other accounts
	// or groups. Then a token could be meant for either, and is good at none.
	ambiguous *atomic.Bool
}

var errAmbiguous = errors.New("sites of the same name differ in accounts or groups; give each a name of its own for access tokens")

// byToken is who an access token stands for: a group's token for itself, and a
// personal one for its owner as the owner's directory has it now.
func (a *accounts) byToken(ctx context.Context, token accesstoken.Token, err error) (caller, error) {
	return a.byMadeToken(ctx, token, err, maxMakers)
}

// maxMakers is how many tokens there may be before one, each made with the one
// before it.
const maxMakers = 8

// byMadeToken is byToken for a token that may have so many makers. It is good
// only as long as the one that it was made with.
func (a *accounts) byMadeToken(ctx context.Context, token accesstoken.Token, err error, makers int) (caller, error) {
	switch {
	case accesstoken.IsRefusal(err):
		return caller{}, fmt.Errorf("%w: %w", directory.ErrWrongPassword, err)
	case err != nil:
		return caller{}, err
	case token.Site != a.tokens.site:
		return caller{}, fmt.Errorf("%w: the access token is for another site", directory.ErrWrongPassword)
	case a.tokens.ambiguous.Load():
		return caller{}, fmt.Errorf("%w: %w", directory.ErrWrongPassword, errAmbiguous)
	case token.MadeWith != "" && makers == 0:
		return caller{}, fmt.Errorf("%w: too many access tokens were made one with the other", directory.ErrWrongPassword)
	case token.MadeWith != "":
		maker, err := a.tokens.store.Peek(ctx, token.MadeWith)
		if _, err = a.byMadeToken(ctx, maker, err, makers-1); err != nil {
			return caller{directory: TokensDirectory}, fmt.Errorf("access token %s was made with %s: %w", token.ID, token.MadeWith, err)
		}
	}
	var who caller
	if token.Owner != nil {
		who, err = a.byOwner(ctx, *token.Owner)
	} else {
		who, err = a.admit(namedDirectory{name: TokensDirectory}, groupAccount(token), nil)
	}
	if err != nil {
		return caller{directory: who.directory}, fmt.Errorf("access token %s: %w", token.ID, err)
	}
	who.token, who.expires = token.ID, token.Expires
	who.Only = narrow(who.Only, token.Groups)
	who.PullOnly = who.PullOnly || !token.MayManage()
	return who, nil
}

// groupAccount is the account that a group's token is.
func groupAccount(token accesstoken.Token) directory.Account {
	role, ok := directory.ParseRole(token.Role)
	if !ok {
		role = directory.Member // of a deploy token
	}
	roles := make(map[string]directory.Role, 1)
	for _, group := range token.Groups {
		roles[group] = role
	}
	return directory.Account{Name: tokenName + token.ID, Roles: roles}
}

// narrow is what two limits to groups leave together; nil is no limit.
func narrow(only, by []string) []string {
	if only == nil {
		return by
	}
	if by == nil {
		return only
	}
	both := []string{}
	for _, one := range only {
		for _, other := range by {
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
