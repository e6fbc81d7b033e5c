package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// DefaultTokenLife is the lifetime of an access token for which none is
// requested.
const DefaultTokenLife = 90 * 24 * time.Hour

// TokenRequest describes an access token to be created.
type TokenRequest struct {
	// Kind is required.
	Kind accesstoken.Kind `json:"kind"`

	// Account is the account that a personal token stands for, written as in the
	// configuration.
	Account string `json:"account,omitempty"`

	// Groups has the group of a group or deploy token. For a personal token it
	// has the groups that the token is limited to; nil means no limit.
	Groups []string `json:"groups,omitempty"`

	// Role is the role of a group token: member (the default), maintainer or
	// owner.
	Role string `json:"role,omitempty"`

	// Scopes are pull, which is always included, and manage. The default is
	// pull, and also manage for a group token with a role above member.
	Scopes []accesstoken.Scope `json:"scopes,omitempty"`

	// Name describes the purpose of the token.
	Name string `json:"name,omitempty"`

	// Lifetime is 90 days by default, at least a minute and at most 366 days.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// MadeWith is the ID of the access token that the request was made with, if
	// any. The new token ends with it.
	MadeWith string `json:"-"`
}

// Tokens creates, lists and revokes the access tokens of a site.
type Tokens struct {
	Accounts *Accounts
	Policy   *Policy
	Logger   *zap.Logger

	// Made and Revoked are called for tokens that were created, and for those that
	// were revoked or have ended with one that was. By names the client, as for
	// Create. They are optional and must not block.
	Made, Revoked func(token accesstoken.Token, by string)
}

// Create creates an access token for the site and returns it with its secret,
// which is stored nowhere. The caller must have checked that the client may have
// the token. The parameter by names the client, for the records. The error is a
// [RequestError] if the request is invalid, an [accesstoken.ErrUnavailable] if the
// token cannot be stored, or that of a directory that could not answer.
func (m *Tokens) Create(ctx context.Context, request TokenRequest, by string) (accesstoken.Token, string, error) {
	if m.Accounts.tokens.ambiguous.Load() {
		return accesstoken.Token{}, "", RequestError(ErrAmbiguous.Error())
	}
	token, err := m.requested(ctx, request)
	if err != nil {
		return token, "", err
	}
	token.Site, token.CreatedBy = m.Accounts.tokens.site, by
	lifetime := time.Duration(request.Lifetime)
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
	m.Logger.Info("access token created", append(tokenFields(token), zap.String("by", by))...)
	if m.Made != nil {
		m.Made(token, by)
	}
	return token, secret, nil
}

// requested returns the token that a request describes. It checks what the store
// of the tokens cannot know: the role, the groups and the account.
func (m *Tokens) requested(ctx context.Context, request TokenRequest) (accesstoken.Token, error) {
	token := accesstoken.Token{
		Kind: request.Kind, Name: request.Name, Groups: request.Groups, Role: request.Role,
		Scopes: request.scopes(), MadeWith: request.MadeWith,
	}
	if request.Groups != nil && len(request.Groups) == 0 {
		return token, RequestError("the list of groups is empty; name a group, or omit the list for a token that is not limited to groups")
	}
	if request.Kind == accesstoken.Group && request.Role == "" {
		token.Role = directory.Member.String()
	}
	if _, ok := directory.ParseRole(token.Role); !ok && token.Role != "" {
		return token, Errorf("unknown role '%s'; use member, maintainer or owner", token.Role)
	}
	for _, group := range token.Groups {
		if err := m.checkGroup(ctx, group); err != nil {
			return token, err
		}
	}
	if request.Account == "" {
		return token, nil
	}
	var err error
	token.Owner, err = m.ownerOf(ctx, request.Account)
	return token, err
}

// scopes returns the requested scopes or the default, always with pull.
func (r *TokenRequest) scopes() []accesstoken.Scope {
	scopes := slices.Clone(r.Scopes)
	if role, _ := directory.ParseRole(r.Role); len(scopes) == 0 && r.Kind == accesstoken.Group && role > directory.Member {
		scopes = append(scopes, accesstoken.Manage)
	}
	if !slices.Contains(scopes, accesstoken.Pull) {
		scopes = slices.Insert(scopes, 0, accesstoken.Pull)
	}
	return scopes
}

// checkGroup rejects a group that does not exist, which is probably a typo.
func (m *Tokens) checkGroup(ctx context.Context, group string) error {
	if !reference.ValidRepository(group) {
		return Errorf("invalid group path '%s'; write it in lower case as in image names, such as acme/platform", group)
	}
	_, err := m.Policy.VisibilityOf(ctx, group)
	if errors.Is(err, fs.ErrNotExist) {
		return Errorf("group '%s' does not exist", group)
	}
	return err
}

// ownerOf returns an account in the form that is stored in a token.
func (m *Tokens) ownerOf(ctx context.Context, name string) (*accesstoken.Owner, error) {
	who, err := m.Accounts.Find(ctx, "--account", name)
	switch {
	case err == nil && who.Token != "":
		return nil, Errorf("'%s' is an access token; name an account of a directory", name)
	case err == nil:
		d, _ := m.Accounts.named(who.Directory)
		return &accesstoken.Owner{Name: who.Name, Directory: who.Directory, Source: d.fingerprint(), Facts: who.Facts}, nil
	case directory.IsRefusal(err):
		return nil, Errorf("account '%s' does not exist or cannot log in: %v", name, err)
	}
	return nil, err
}

// RevokedToken is a token that has been revoked.
type RevokedToken struct {
	accesstoken.Token

	// AlsoEnded are the tokens that have ended with it, because they were made
	// with it, directly or through others.
	AlsoEnded []accesstoken.Token `json:"also_ended,omitempty"`
}

// Revoke revokes an access token of any site. The parameter by names the client,
// for the records. The error is [fs.ErrNotExist] if the token does not exist or
// visible returns false for it: the client must not learn the difference. It is
// an [accesstoken.ErrUnavailable] if the storage fails; the token may be revoked
// nevertheless.
//
// Tokens of all sites share a storage. For the owner of a group of this site,
// visible must check the site and the kind of a token, too.
func (m *Tokens) Revoke(ctx context.Context, id, by string, visible func(accesstoken.Token) bool) (RevokedToken, error) {
	store := m.Accounts.tokens.store
	before := false
	token, err := store.Revoke(ctx, id, by, func(t accesstoken.Token) bool {
		before = !t.Revoked.IsZero()
		return visible(t)
	})
	if err != nil {
		return RevokedToken{}, err
	}
	m.Logger.Info("access token revoked", append(tokenFields(token), zap.String("by", by))...)
	report := m.Revoked
	if report == nil || before {
		report = func(accesstoken.Token, string) {}
	}
	report(token, by)
	all, err := store.List(ctx)
	if err != nil {
		return RevokedToken{}, fmt.Errorf("the access token is revoked, but the tokens that end with it cannot be listed: %w", err)
	}
	revoked := RevokedToken{Token: token}
	for _, other := range madeWith(id, all) {
		m.Logger.Info("access token ended with the token that it was made with", append(tokenFields(other), zap.String("made_with", other.MadeWith))...)
		report(other, by)
		if visible(other) {
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
