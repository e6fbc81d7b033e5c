package access

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

// siteTokens are the access tokens that are good at a site.
type siteTokens struct {
	store *accesstoken.Store
	site  string
	// ambiguous is set when another site has the same name and other accounts
	// or groups. Then a token could be meant for either, and is good at none.
	ambiguous atomic.Bool
}

var ErrAmbiguous = errors.New("sites of the same name differ in accounts or groups; give each a name of its own for access tokens")

// byToken is who an access token stands for: a group's token for itself, and a
// personal one for its owner as the owner's directory has it now.
func (a *Accounts) byToken(ctx context.Context, token accesstoken.Token, err error) (Caller, error) {
	return a.byMadeToken(ctx, token, err, maxMakers)
}

// maxMakers is how many tokens there may be before one, each made with the one
// before it.
const maxMakers = 8

// byMadeToken is byToken for a token that may have so many makers. It is good
// only as long as the one that it was made with.
func (a *Accounts) byMadeToken(ctx context.Context, token accesstoken.Token, err error, makers int) (Caller, error) {
	switch {
	case accesstoken.IsRefusal(err):
		return Caller{}, fmt.Errorf("%w: %w", directory.ErrWrongPassword, err)
	case err != nil:
		return Caller{}, err
	case token.Site != a.tokens.site:
		return Caller{}, fmt.Errorf("%w: the access token is for another site", directory.ErrWrongPassword)
	case a.tokens.ambiguous.Load():
		return Caller{}, fmt.Errorf("%w: %w", directory.ErrWrongPassword, ErrAmbiguous)
	case token.MadeWith != "" && makers == 0:
		return Caller{}, fmt.Errorf("%w: too many access tokens were made one with the other", directory.ErrWrongPassword)
	case token.MadeWith != "":
		maker, err := a.tokens.store.Peek(ctx, token.MadeWith)
		if _, err = a.byMadeToken(ctx, maker, err, makers-1); err != nil {
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

// intersect is what two limits to groups leave together; nil is no limit.
func intersect(only, by []string) []string {
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
