package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// defaultTokenLife is how long an access token lives if nothing is said.
const defaultTokenLife = 90 * 24 * time.Hour

// tokenOrder says what access token is wanted.
type tokenOrder struct {
	Kind accesstoken.Kind `json:"kind"`

	// Account is whom a personal token stands for, as the configuration lists
	// accounts.
	Account string `json:"account,omitempty"`

	// Groups are the one of a group or deploy token, or those that a personal
	// one is limited to; none means no limit.
	Groups []string `json:"groups,omitempty"`

	// Role is that of a group token: member by default.
	Role string `json:"role,omitempty"`

	// Scopes are pull and manage. The default is pull, and manage too for a
	// group token whose role is more than member.
	Scopes []accesstoken.Scope `json:"scopes,omitempty"`

	// Name is what the token is for, for people.
	Name string `json:"name,omitempty"`

	// Lifetime is 90d by default, and at most 366d.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	madeWith string // the id of the access token that it is made with, if any
}

// badOrder is what is wrong with a request of somebody who may know it.
type badOrder string

func (e badOrder) Error() string { return string(e) }

func badOrderf(format string, args ...any) error { return badOrder(fmt.Sprintf(format, args...)) }

// tokenManager makes, lists and revokes the access tokens of a site.
type tokenManager struct {
	accounts *accounts
	access   *access
	logger   *zap.Logger
}

// makeToken makes an access token for this site, and returns the secret, which
// is nowhere else. Whether who asks may have it is for the caller to decide; by
// says in the records who it was. An error is a badOrder, or an
// [accesstoken.ErrUnavailable], or a directory's that cannot answer.
func (m *tokenManager) makeToken(ctx context.Context, order tokenOrder, by string) (accesstoken.Token, string, error) {
	if m.accounts.tokens.ambiguous.Load() {
		return accesstoken.Token{}, "", badOrder(errAmbiguous.Error())
	}
	token := accesstoken.Token{
		Kind: order.Kind, Name: order.Name, Site: m.accounts.tokens.site, Role: order.Role, Scopes: order.scopes(), CreatedBy: by, MadeWith: order.madeWith,
	}
	if order.Groups != nil {
		if len(order.Groups) == 0 {
			return token, "", badOrder("the list of groups is empty; name groups, or leave it out for a token that is not limited to any")
		}
		token.Groups = order.Groups
	}
	if order.Kind == accesstoken.Group && order.Role == "" {
		token.Role = directory.Member.String()
	}
	if _, ok := directory.ParseRole(token.Role); !ok && token.Role != "" {
		return token, "", badOrderf("the role '%s' is none of member, maintainer and owner", token.Role)
	}
	for _, group := range token.Groups {
		if err := m.checkGroup(ctx, group); err != nil {
			return token, "", err
		}
	}
	if order.Account != "" {
		owner, err := m.ownerOf(ctx, order.Account)
		if err != nil {
			return token, "", err
		}
		token.Owner = owner
	}
	lifetime := time.Duration(order.Lifetime)
	if lifetime == 0 {
		lifetime = defaultTokenLife
	}
	token, secret, err := m.accounts.tokens.store.Create(ctx, token, lifetime)
	if err != nil {
		if !errors.Is(err, accesstoken.ErrUnavailable) {
			err = badOrder(err.Error())
		}
		return token, "", err
	}
	m.logger.Info("access token made", append(tokenFields(token), zap.String("by", by))...)
	return token, secret, nil
}

// scopes are those asked for, or the default; managing includes pulling.
func (o *tokenOrder) scopes() []accesstoken.Scope {
	scopes := slices.Clone(o.Scopes)
	if role, _ := directory.ParseRole(o.Role); len(scopes) == 0 && o.Kind == accesstoken.Group && role > directory.Member {
		scopes = append(scopes, accesstoken.Manage)
	}
	if !slices.Contains(scopes, accesstoken.Pull) {
		scopes = slices.Insert(scopes, 0, accesstoken.Pull)
	}
	return scopes
}

// checkGroup finds typos: a token of a group that does not exist is no use.
func (m *tokenManager) checkGroup(ctx context.Context, group string) error {
	if !reference.ValidRepository(group) {
		return badOrderf("'%s' is not a group's path as images have it, in lower case", group)
	}
	_, err := m.access.visibilityOf(ctx, group)
	if errors.Is(err, fs.ErrNotExist) {
		return badOrderf("there is no group '%s'", group)
	}
	return err
}

// ownerOf is an account as a token remembers it.
func (m *tokenManager) ownerOf(ctx context.Context, name string) (*accesstoken.Owner, error) {
	who, err := m.accounts.find(ctx, "--account", name)
	switch {
	case err == nil && who.token != "":
		return nil, badOrderf("'%s' is an access token itself", name)
	case err == nil:
		d, _ := m.accounts.named(who.directory)
		return &accesstoken.Owner{Name: who.Name, Directory: who.directory, Source: d.fingerprint(), Facts: who.Facts}, nil
	case directory.IsRefusal(err):
		return nil, badOrderf("there is no account '%s' that may get in: %v", name, err)
	}
	return nil, err
}

// listedToken is an access token in a list.
type listedToken struct {
	accesstoken.Token
	// Ended is why the token is good no more, though it is neither revoked nor
	// expired. It is not asked whether a directory still knows the owner.
	Ended string `json:"ended,omitempty"`
}

// listTokens lists the access tokens that are wanted, the newest first. All
// sites' are there, those of sites that are gone too: who answers for one group
// of this site wants only those with its name and not of an account, too. The
// other sites are those that can tell whether their tokens have ended.
func (m *tokenManager) listTokens(ctx context.Context, wanted func(accesstoken.Token) bool, others ...*tokenManager) ([]listedToken, error) {
	all, err := m.accounts.tokens.store.List(ctx)
	byID := tokensByID(all)
	sites := make(map[string]*accounts)
	for _, site := range append(others, m) {
		sites[site.accounts.tokens.site] = site.accounts
	}
	tokens := []listedToken{}
	for _, t := range all {
		if !wanted(t) {
			continue
		}
		listed := listedToken{Token: t}
		if site := sites[t.Site]; site != nil && t.Valid(time.Now()) == nil {
			listed.Ended = site.ended(t, byID)
		}
		tokens = append(tokens, listed)
	}
	return tokens, err
}

// revokedToken is a token that has been revoked, and what ends with it.
type revokedToken struct {
	accesstoken.Token
	AlsoEnded []accesstoken.Token `json:"also_ended,omitempty"`
}

// revokeToken ends an access token, if it is wanted; else it is an
// [fs.ErrNotExist], as if it did not exist. What listTokens says of other sites
// holds here too.
func (m *tokenManager) revokeToken(ctx context.Context, id, by string, wanted func(accesstoken.Token) bool) (revokedToken, error) {
	store := m.accounts.tokens.store
	token, err := store.Revoke(ctx, id, by, wanted)
	if err != nil {
		return revokedToken{}, err
	}
	m.logger.Info("access token revoked", append(tokenFields(token), zap.String("by", by))...)
	all, err := store.List(ctx)
	if err != nil {
		return revokedToken{}, fmt.Errorf("the access token is revoked, but what ends with it cannot be listed: %w", err)
	}
	revoked := revokedToken{Token: token}
	for _, other := range madeWith(id, all) {
		m.logger.Info("access token ends with the one that it was made with", append(tokenFields(other), zap.String("made_with", other.MadeWith))...)
		if wanted(other) {
			revoked.AlsoEnded = append(revoked.AlsoEnded, other)
		}
	}
	return revoked, nil
}

func tokenFields(token accesstoken.Token) []zap.Field {
	fields := []zap.Field{
		zap.String("access_token", token.ID), zap.String("kind", string(token.Kind)),
		zap.Strings("groups", token.Groups), zap.Time("expires", token.Expires),
	}
	if token.Owner != nil {
		fields = append(fields, zap.String("account", token.Owner.Name), zap.String("directory", token.Owner.Directory))
	}
	return fields
}

// endedTokens are the tokens whose end this process has logged.
var endedTokens sync.Map

// tellEnded logs, once each, the tokens that are good no more though they are
// neither revoked nor expired: the directory of their owner, or of that of the
// token that they were made with, is not what it was.
func (m *tokenManager) tellEnded(ctx context.Context) {
	all, err := m.accounts.tokens.store.List(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		m.logger.Warn("access tokens cannot be listed, so it is not known whether some have ended", zap.Error(err))
		return
	}
	byID := tokensByID(all)
	for _, t := range all {
		if t.Site != m.accounts.tokens.site || t.Valid(time.Now()) != nil {
			continue
		}
		if why := m.accounts.ended(t, byID); why != "" {
			if _, told := endedTokens.LoadOrStore(t.ID, true); !told {
				m.logger.Warn("access token has ended", append(tokenFields(t), zap.String("reason", why))...)
			}
		}
	}
}
