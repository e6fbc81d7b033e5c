package caddymodule

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// Group is a namespace of images, with the accounts that may use it.
type Group struct {
	// Path has one or more components separated by slashes: acme/platform is a
	// subgroup of acme.
	Path string `json:"path"`

	// Visibility is private (the default: members only), internal (all accounts)
	// or public (everybody, without a login).
	Visibility directory.Visibility `json:"visibility,omitempty"`

	// Members may pull from the group and its subgroups.
	Members []string `json:"members,omitempty"`

	// Maintainers are members who may also see what is cached for the group, and
	// purge it.
	Maintainers []string `json:"maintainers,omitempty"`

	// Owners are maintainers who may also manage the access tokens of the group.
	Owners []string `json:"owners,omitempty"`

	// MembersFrom names directories whose group of the same path adds its
	// members, with their roles, and its subgroups. Without MembersFrom, a group
	// that lists accounts has these accounts only, and so have its subgroups. A
	// group that lists none, and is not below one that does, has the members of
	// the first directory with a group of the same path.
	MembersFrom []string `json:"members_from,omitempty"`

	// Quota limits what is stored for the group and its subgroups, in bytes.
	// Above it, the least recently pulled content is evicted. Content that two
	// groups pulled counts for both. The default, 0, means no limit.
	Quota int64 `json:"quota,omitempty"`

	// Allow has patterns of the images that can be pulled through the group and
	// its subgroups: UPSTREAM/REPOSITORY or UPSTREAM/REPOSITORY:TAG, in which *
	// matches within a component and ** across components. Requests by digest
	// are matched without the tag. The default is all images.
	Allow []string `json:"allow,omitempty"`

	// Deny has patterns of images that cannot be pulled, even if Allow matches.
	Deny []string `json:"deny,omitempty"`

	// Upstreams has the credentials that the group and its subgroups use at an
	// upstream instead of the upstream's own.
	Upstreams []*GroupUpstream `json:"upstreams,omitempty"`
}

// accessGroups converts groups for package access.
func accessGroups(groups ...*Group) []access.Group {
	converted := make([]access.Group, len(groups))
	for i, g := range groups {
		converted[i] = access.Group{
			Path: g.Path, Visibility: g.Visibility,
			Members: g.Members, Maintainers: g.Maintainers, Owners: g.Owners, MembersFrom: g.MembersFrom,
			Allow: g.Allow, Deny: g.Deny,
		}
	}
	return converted
}

// Token configures the token service.
type Token struct {
	// Lifetime is the lifetime of a token: 15m by default, at least 1m (clients
	// assume a minute) and at most 30d.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// Rotate is the age at which a signing key is replaced: 30d by default, at
	// least Lifetime.
	Rotate caddy.Duration `json:"rotate,omitempty"`

	// RefreshTokens lets clients exchange a login for a refresh token, which is
	// valid for 30 days. `docker login` then stores it instead of the password.
	// Some clients cannot use it.
	RefreshTokens bool `json:"refresh_tokens,omitempty"`
}

const (
	defaultLifetime = 15 * time.Minute
	defaultRotate   = 30 * 24 * time.Hour
	refreshLifetime = 30 * 24 * time.Hour
)

// UnmarshalCaddyfile parses
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
		return fmt.Errorf("token rotate %v must not be shorter than the token lifetime %v", rotate, lifetime)
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

// accessFingerprint returns a text that is equal for sites at which an access token
// has the same rights. It must be called before the guest modules are loaded, which
// clears their configuration.
func (h *Handler) accessFingerprint() string {
	text, err := json.Marshal([]any{h.DirectoriesRaw, h.Groups, h.Admins, h.Blocked, h.PrivateGroups})
	if err != nil {
		panic(err) // all of it was decoded from JSON
	}
	return string(text)
}
