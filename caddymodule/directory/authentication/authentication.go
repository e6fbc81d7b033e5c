// Package authentication is the directory of an authentication provider of Caddy: the
// module http.dependency_proxy.directory.authentication.
//
// It shows a login to the provider, a module of http.authentication.providers, and
// accepts the user that the provider returns. A provider cannot tell an unknown account
// from a wrong password, so whatever it refuses is an unknown account and the next
// directory is asked. It cannot be asked about an account later either: the name, the
// groups and the time of the login travel in the token as facts, and hold until MaxAge
// after the login. Nothing is remembered here, except the passwords that match a hash
// of http_basic; see package password.
package authentication

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
)

func init() { caddy.RegisterModule(new(Directory)) }

// Directory lets an authentication provider of Caddy check logins. The provider gets
// the request without its body, with the login as Basic credentials. What it writes to
// the response is discarded.
//
// A provider cannot tell an unknown account from a wrong password, so a login that it
// refuses goes to the next directory. If the provider fails, access is denied.
//
// The provider is not asked again after the login. What it said holds until the token
// ends, and with a refresh token until MaxAge after the login: a right that the provider
// withdraws ends no sooner, unless the configuration of the provider changes here, which
// ends all tokens for its logins. Use `blocked`, or a directory that is asked at each
// pull, to withdraw rights at once.
type Directory struct {
	// Name is the name by which the configuration lists accounts of this directory,
	// as in NAME:alice. The default is authentication.
	Name string `json:"name,omitempty"`

	// ProviderRaw is the provider that checks the logins. The id of the user that it
	// returns is the name of the account.
	ProviderRaw json.RawMessage `json:"provider,omitempty" caddy:"namespace=http.authentication.providers inline_key=type"`

	// Groups is the key of the user's metadata with the groups of which the account
	// is a member, separated by commas or white space. Invalid paths of groups are
	// ignored. By default accounts have no groups.
	Groups string `json:"groups,omitempty"`

	// MaxAge is how long after a login the tokens for it are valid at most, including
	// refresh tokens. The default is 12h, the minimum 1m.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	kind     string // of the provider
	source   string // identifies the provider and its configuration, in facts
	provider caddyauth.Authenticator
	hashes   bool // the provider compares a hash
	maxLen   int  // of a password in bytes; 0 for any
}

const defaultMaxAge = 12 * time.Hour

// CaddyModule returns the Caddy module information.
func (*Directory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.directory.authentication",
		New: func() caddy.Module { return new(Directory) },
	}
}

// Provision loads the provider.
func (a *Directory) Provision(ctx caddy.Context) error {
	if err := a.check(); err != nil {
		return err
	}
	if a.MaxAge == 0 {
		a.MaxAge = caddy.Duration(defaultMaxAge)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", a.ProviderRaw, a.Groups)) // before loading clears it
	mod, err := ctx.LoadModule(a, "ProviderRaw")
	if err != nil {
		return err
	}
	a.kind = mod.(caddy.Module).CaddyModule().ID.Name()
	a.source = a.kind + " " + base64.RawURLEncoding.EncodeToString(sum[:9])
	var ok bool
	if a.provider, ok = mod.(caddyauth.Authenticator); !ok {
		return fmt.Errorf("authentication provider %T is not a caddyauth.Authenticator", mod)
	}
	if basic, ok := mod.(*caddyauth.HTTPBasicAuth); ok {
		a.hashes = true
		// Package password remembers passwords that match. The cache of the provider
		// also remembers wrong ones: with it, a password that was tried with an unknown
		// name would be refused at once with the next unknown name, but not with a
		// known one.
		basic.HashCache = nil
		if _, ok := basic.Hash.(*caddyauth.BcryptHash); ok {
			a.maxLen = password.BcryptLen
		}
		return checkBasicHashes(basic)
	}
	return nil
}

// Source implements [directory.Sourced]. It changes with the configuration of the
// provider.
func (a *Directory) Source() string { return a.source }

// NamesGroups implements [directory.Naming].
func (a *Directory) NamesGroups() bool { return a.Groups != "" }

// Interface guards
var (
	_ caddy.Provisioner = (*Directory)(nil)
	_ directory.Sourced = (*Directory)(nil)
	_ directory.Costly  = (*Directory)(nil)
	_ directory.Naming  = (*Directory)(nil)
)
