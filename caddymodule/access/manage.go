package access

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

// DefaultTokenLife is how long an access token lives if nothing is said.
const DefaultTokenLife = 90 * 24 * time.Hour

// TokenRequest says what access token is wanted.
type TokenRequest struct {
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

	// MadeWith is the id of the access token that it is made with, if any.
	MadeWith string `json:"-"`
}

// RequestError is what is wrong with a request of somebody who may know it.
type RequestError string

func (e RequestError) Error() string { return string(e) }

func Errorf(format string, args ...any) error { return RequestError(fmt.Sprintf(format, args...)) }

// Tokens makes, lists and revokes the access tokens of a site.
type Tokens struct {
	Accounts *Accounts
	Access   *Policy
	Logger   *zap.Logger
}

// Create makes an access token for this site, and returns the secret, which
// is nowhere else. Whether who asks may have it is for the caller to decide; by
// says in the records who it was. An error is a RequestError, or an
// [accesstoken.ErrUnavailable], or a directory's that cannot answer.
func (m *Tokens) Create(ctx context.Context, order TokenRequest, by string) (accesstoken.Token, string, error) {
	if m.Accounts.tokens.ambiguous.Load() {
		return accesstoken.Token{}, "", RequestError(ErrAmbiguous.Error())
	}
	token := accesstoken.Token{
		Kind: order.Kind, Name: order.Name, Site: m.Accounts.tokens.site, Role: order.Role, Scopes: order.scopes(), CreatedBy: by, MadeWith: order.MadeWith,
	}
	if order.Groups != nil {
		if len(order.Groups) == 0 {
			return token, "", RequestError("the list of groups is empty; name groups, or leave it out for a token that is not limited to any")
		}
		token.Groups = order.Groups
	}
	if order.Kind == accesstoken.Group && order.Role == "" {
		token.Role = directory.Member.String()
	}
	if _, ok := directory.ParseRole(token.Role); !ok && token.Role != "" {
		return token, "", Errorf("the role '%s' is none of member, maintainer and owner", token.Role)
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
		lifetime = DefaultTokenLife
	}
	token, secret, err := m.Accounts.tokens.store.Create(ctx, token, lifetime)
	if err != nil {
		if !errors.Is(err, accesstoken.ErrUnavailable) {
			err = RequestError(err.Error())
		}
		return token, "", err
	}
	m.Logger.Info("access token made", append(tokenFields(token), zap.String("by", by))...)
	return token, secret, nil
}

// scopes are those asked for, or the default; managing includes pulling.
func (o *TokenRequest) scopes() []accesstoken.Scope {
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
func (m *Tokens) checkGroup(ctx context.Context, group string) error {
	if !reference.ValidRepository(group) {
		return Errorf("'%s' is not a group's path as images have it, in lower case", group)
	}
	_, err := m.Access.VisibilityOf(ctx, group)
	if errors.Is(err, fs.ErrNotExist) {
		return Errorf("there is no group '%s'", group)
	}
	return err
}

// ownerOf is an account as a token remembers it.
func (m *Tokens) ownerOf(ctx context.Context, name string) (*accesstoken.Owner, error) {
	who, err := m.Accounts.Find(ctx, "--account", name)
	switch {
	case err == nil && who.Token != "":
		return nil, Errorf("'%s' is an access token itself", name)
	case err == nil:
		d, _ := m.Accounts.named(who.Directory)
		return &accesstoken.Owner{Name: who.Name, Directory: who.Directory, Source: d.fingerprint(), Facts: who.Facts}, nil
	case directory.IsRefusal(err):
		return nil, Errorf("there is no account '%s' that may get in: %v", name, err)
	}
	return nil, err
}

// ListedToken is an access token in a list.
type ListedToken struct {
	accesstoken.Token
	// Ended is why the token is good no more, though it is neither revoked nor
	// expired. It is not asked whether a directory still knows the owner.
	Ended string `json:"ended,omitempty"`
}

// List lists the access tokens that are wanted, the newest first. All
// sites' are there, those of sites that are gone too: who answers for one group
// of this site wants only those with its name and not of an account, too. The
// other sites are those that can tell whether their tokens have ended.
func (m *Tokens) List(ctx context.Context, wanted func(accesstoken.Token) bool, others ...*Tokens) ([]ListedToken, error) {
	all, err := m.Accounts.tokens.store.List(ctx)
	byID := tokensByID(all)
	sites := make(map[string]*Accounts)
	for _, site := range append(others, m) {
		sites[site.Accounts.tokens.site] = site.Accounts
	}
	tokens := []ListedToken{}
	for _, t := range all {
		if !wanted(t) {
			continue
		}
		listed := ListedToken{Token: t}
		if site := sites[t.Site]; site != nil && t.Valid(time.Now()) == nil {
			listed.Ended = site.ended(t, byID)
		}
		tokens = append(tokens, listed)
	}
	return tokens, err
}

// RevokedToken is a token that has been revoked, and what ends with it.
type RevokedToken struct {
	accesstoken.Token
	AlsoEnded []accesstoken.Token `json:"also_ended,omitempty"`
}

// Revoke ends an access token, if it is wanted; else it is an
// [fs.ErrNotExist], as if it did not exist. What List says of other sites
// holds here too.
func (m *Tokens) Revoke(ctx context.Context, id, by string, wanted func(accesstoken.Token) bool) (RevokedToken, error) {
	store := m.Accounts.tokens.store
	token, err := store.Revoke(ctx, id, by, wanted)
	if err != nil {
		return RevokedToken{}, err
	}
	m.Logger.Info("access token revoked", append(tokenFields(token), zap.String("by", by))...)
	all, err := store.List(ctx)
	if err != nil {
		return RevokedToken{}, fmt.Errorf("the access token is revoked, but what ends with it cannot be listed: %w", err)
	}
	revoked := RevokedToken{Token: token}
	for _, other := range madeWith(id, all) {
		m.Logger.Info("access token ends with the one that it was made with", append(tokenFields(other), zap.String("made_with", other.MadeWith))...)
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

// LogEnded logs, once each, the tokens that are good no more though they are
// neither revoked nor expired: the directory of their owner, or of that of the
// token that they were made with, is not what it was.
func (m *Tokens) LogEnded(ctx context.Context) {
	all, err := m.Accounts.tokens.store.List(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		m.Logger.Warn("access tokens cannot be listed, so it is not known whether some have ended", zap.Error(err))
		return
	}
	byID := tokensByID(all)
	for _, t := range all {
		if t.Site != m.Accounts.tokens.site || t.Valid(time.Now()) != nil {
			continue
		}
		if why := m.Accounts.ended(t, byID); why != "" {
			if _, told := endedTokens.LoadOrStore(t.ID, true); !told {
				m.Logger.Warn("access token has ended", append(tokenFields(t), zap.String("reason", why))...)
			}
		}
	}
}
