package caddymodule

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// Group is a namespace of images with its own readers.
type Group struct {
	// Path is one or more components separated by slashes: acme, or
	// acme/platform, which is a subgroup of acme.
	Path string `json:"path"`

	// Visibility is private (the default), internal or public.
	Visibility directory.Visibility `json:"visibility,omitempty"`

	// Members may pull from the group and from its subgroups.
	Members []string `json:"members,omitempty"`

	// Maintainers are members who also see the group's page and purge what is
	// cached for it.
	Maintainers []string `json:"maintainers,omitempty"`

	// Owners are maintainers who also make and revoke the group's tokens.
	Owners []string `json:"owners,omitempty"`

	// MembersFrom are directories, by their names, whose groups of the same path
	// have their members here too, with their roles, and whose groups below it
	// exist here. A group that lists accounts has no others without it, and the
	// groups below it neither. A group that lists none, and is not below one
	// that does, has the members of the first directory that has the group.
	MembersFrom []string `json:"members_from,omitempty"`

	// Quota bounds what is stored for the group and its subgroups, in bytes:
	// above it, what they pulled least recently goes. Content that
	// another group has too counts for both. The default, 0, sets no bound.
	Quota int64 `json:"quota,omitempty"`

	// Allow are patterns of the images that can be pulled through the group and
	// its subgroups, as UPSTREAM/REPOSITORY or UPSTREAM/REPOSITORY:TAG. A *
	// matches within a component, ** across components. None means all images.
	// What a request asks for by its digest is compared without the tag.
	Allow []string `json:"allow,omitempty"`

	// Deny are patterns of images that cannot be pulled, whatever Allow says.
	Deny []string `json:"deny,omitempty"`

	// Upstreams are logins that the group and its subgroups use at an
	// upstream instead of the common one.
	Upstreams []*GroupUpstream `json:"upstreams,omitempty"`
}

// Token are the settings of the token service.
type Token struct {
	// Lifetime is how long a token is good for: 15m by default, at least 1m,
	// since clients rely on a minute.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// Rotate is the age at which a signing key is replaced: 30d by default.
	Rotate caddy.Duration `json:"rotate,omitempty"`

	// RefreshTokens lets `docker login` store a refresh token, good for 30
	// days after the login, instead of the password. Some clients can then do
	// nothing else.
	RefreshTokens bool `json:"refresh_tokens,omitempty"`
}

const (
	defaultLifetime = 15 * time.Minute
	defaultRotate   = 30 * 24 * time.Hour
	refreshLifetime = 30 * 24 * time.Hour
)

// UnmarshalCaddyfile reads
//
//	token {
//		lifetime       <duration>
//		rotate         <duration>
//		refresh_tokens on|off
//	}
func (t *Token) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if err := parse.End(d); err != nil {
		return err
	}
	err := parse.Lines(d, "token", map[string]func(*caddyfile.Dispenser) error{
		"lifetime": func(d *caddyfile.Dispenser) error { return parse.Duration(d, &t.Lifetime) },
		"rotate":   func(d *caddyfile.Dispenser) error { return parse.Duration(d, &t.Rotate) },
		"refresh_tokens": func(d *caddyfile.Dispenser) (err error) {
			t.RefreshTokens, err = parse.OnOff(d)
			return err
		},
	})
	if err != nil {
		return err
	}
	return parse.At(d, t.check())
}

func (t *Token) check() error {
	lifetime, rotate := t.lifetime(), t.rotate()
	switch {
	case lifetime < tokenissuer.MinLifetime || lifetime > refreshLifetime:
		return fmt.Errorf("token lifetime %v: write a duration from %v to %v", lifetime, tokenissuer.MinLifetime, refreshLifetime)
	case rotate < lifetime:
		return fmt.Errorf("token rotate %v is shorter than the lifetime of a token, %v", rotate, lifetime)
	}
	return nil
}

func (t *Token) lifetime() time.Duration {
	if t.Lifetime == 0 {
		return defaultLifetime
	}
	return time.Duration(t.Lifetime)
}

func (t *Token) rotate() time.Duration {
	if t.Rotate == 0 {
		return defaultRotate
	}
	return time.Duration(t.Rotate)
}
