package access

import (
	"context"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// GroupTokenRequest is a request of the owner of a group for an access token of the
// group.
type GroupTokenRequest struct {
	Kind     accesstoken.Kind    `json:"kind,omitempty"` // deploy (the default) or group
	Role     string              `json:"role,omitempty"` // of a group token
	Scopes   []accesstoken.Scope `json:"scopes,omitempty"`
	Name     string              `json:"name,omitempty"`
	Lifetime caddy.Duration      `json:"lifetime,omitempty"`
}

// OfGroup returns a function that reports whether the owners of a group may see and
// revoke a token.
func (m *Tokens) OfGroup(group string) func(accesstoken.Token) bool {
	return func(t accesstoken.Token) bool {
		return t.Site == m.Accounts.tokens.site && t.Kind != accesstoken.Personal && slices.Contains(t.Groups, group)
	}
}

// CreateOfGroup creates a token of a group with at most the rights of the caller, who
// must be an owner of the group. If the caller uses an access token, the new token
// ends with it. Tokens of a group cannot create tokens. Errors are those of
// [Tokens.Create].
func (m *Tokens) CreateOfGroup(ctx context.Context, who Caller, group string, request GroupTokenRequest) (accesstoken.Token, string, error) {
	if who.Token != "" && who.Directory == TokensDirectory {
		return accesstoken.Token{}, "", RequestError("an access token of a group cannot create tokens; log in as an owner")
	}
	if request.Kind == "" {
		request.Kind = accesstoken.Deploy
	}
	if request.Kind != accesstoken.Deploy && request.Kind != accesstoken.Group {
		return accesstoken.Token{}, "", Errorf("unknown kind '%s'; use deploy or group", request.Kind)
	}
	if err := who.limitLifetime(&request.Lifetime); err != nil {
		return accesstoken.Token{}, "", err
	}
	return m.Create(ctx, TokenRequest{
		Kind: request.Kind, Groups: []string{group}, Role: request.Role,
		Scopes: request.Scopes, Name: request.Name, Lifetime: request.Lifetime,
		MadeWith: who.Token,
	}, who.ID().String())
}

// limitLifetime limits the lifetime of a token that the caller creates to that of the
// access token that the caller uses, if any.
func (c Caller) limitLifetime(lifetime *caddy.Duration) error {
	if c.Token == "" {
		return nil
	}
	left := time.Until(c.Expires).Truncate(time.Second)
	switch {
	case *lifetime == 0:
		*lifetime = caddy.Duration(max(min(left, DefaultTokenLife), time.Second))
	case time.Duration(*lifetime) > left:
		return Errorf("a token created with the access token %s must not outlive it; use a lifetime of at most %v", c.Token, left)
	}
	return nil
}
