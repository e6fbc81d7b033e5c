// Package oidc is the directory of an issuer of id tokens: the module
// http.dependency_proxy.directory.oidc.
//
// A login is an id token in place of the password (OpenID Connect Core 1.0), such as a
// CI job or a Kubernetes service account gets. It is verified with the keys that the
// issuer publishes (file issuer.go) and judged by the rules of the configuration, the
// audiences, requirements and maps (rules.go). The claims that the rules look at are the
// facts of the account: they travel in the token and are judged again at each request,
// by the rules of that time. Of the issuer, only its keys are remembered: for 15 minutes,
// or up to an hour while it cannot be asked. A reload forgets them.
package oidc

import (
	"context"
	"encoding/json"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

func init() { caddy.RegisterModule(new(Directory)) }

// Directory accepts id tokens as logins: those of CI jobs (GitHub Actions, GitLab CI),
// of Kubernetes service accounts, or of any other issuer with OpenID Connect Discovery.
// The token is sent as the password, with any user name that no earlier directory
// knows, so a machine that pulls images need not store a secret. Each issuer needs a
// directory of its own.
//
// An id token is accepted if the issuer has signed it (RSA, ECDSA or Ed25519) for one of
// the audiences, if it is neither expired nor older than MaxAge, if all requirements
// hold and, where there are maps, if one of them matches. The claims that these rules
// look at are stored in the token of this site, and judged again at each pull by the
// rules of that time. Of a claim that is a list, only the elements that a rule asks for
// are stored, so a new rule about other elements takes effect at the next login.
//
// The name of a claim that begins with a slash is a JSON pointer (RFC 6901), as in
// /kubernetes.io/namespace; any other name is used as it is. Text is compared exactly,
// numbers and booleans as they are written in JSON; one element of a list has to match.
//
// The issuer is asked for its keys at the first login, and again when they are 15
// minutes old or one is missing, at most every 10 seconds. While the issuer cannot be
// asked, known keys are used for up to an hour.
type Directory struct {
	// Name is the name by which the configuration lists accounts of this directory,
	// as in NAME:repo:acme/app:ref:refs/heads/main. The default is oidc.
	Name string `json:"name,omitempty"`

	// Issuer is the `iss` claim of the tokens, which is also the URL below which the
	// discovery document is. It must be https, unless it is a loopback address.
	Issuer string `json:"issuer"`

	// Audiences are the values of the `aud` claim that are accepted. Do not share an
	// audience with another service: it could log in here with the tokens it is sent.
	Audiences []string `json:"audiences"`

	// Account is the claim with the name of the account. The default is sub.
	Account string `json:"account,omitempty"`

	// Require are claims that a token must have. All of them must hold.
	Require []*Requirement `json:"require,omitempty"`

	// Maps give accounts roles in groups. There must be a map or a requirement;
	// otherwise every account of the issuer would be accepted.
	Maps []*Map `json:"map,omitempty"`

	// MaxAge is how long an id token is accepted after it was issued (`iat`), unless
	// it expires sooner. The tokens of this site that were given for it, including
	// refresh tokens, end at the same time. The default is 1h, the minimum 1m.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// TransportRaw makes the connections to the issuer, as for one with a private
	// CA. The default is a plain transport without a proxy.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	rules  rules
	issuer *issuer
}

// Requirement is a claim that must have one of some values.
type Requirement struct {
	// Claim is the name of the claim, or a JSON pointer to it.
	Claim string `json:"claim"`

	// Values are the permitted values. A * at the end of a value matches any ending.
	Values []string `json:"values"`
}

// Map gives accounts with a claim a role in a group.
type Map struct {
	// Claim is the name of the claim, or a JSON pointer to it.
	Claim string `json:"claim"`

	// Value is the value of the claim. A * at its end matches any ending: acme*
	// matches acme-evil too, acme/* does not.
	Value string `json:"value"`

	// Group is the path of the group.
	Group string `json:"group"`

	// Role is member (the default), maintainer or owner.
	Role string `json:"role,omitempty"`
}

const defaultMaxAge = time.Hour

// CaddyModule returns the Caddy module information.
func (*Directory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.directory.oidc",
		New: func() caddy.Module { return new(Directory) },
	}
}

// Provision checks the rules. It does not connect to the issuer.
func (o *Directory) Provision(ctx caddy.Context) error {
	if err := o.check(); err != nil {
		return err
	}
	o.rules = o.compile()
	transport, err := directory.LoadTransport(ctx, o, o.TransportRaw != nil)
	if err != nil {
		return err
	}
	o.issuer = newIssuer(o.Issuer, transport)
	return nil
}

// Cleanup closes idle connections. A later login opens new ones.
func (o *Directory) Cleanup() error {
	if o.issuer != nil {
		o.issuer.client.CloseIdleConnections()
	}
	return nil
}

// Source implements [directory.Sourced]. It is the URL of the issuer.
func (o *Directory) Source() string { return o.Issuer }

// Reach implements [directory.Remote]. The issuer is asked for its keys only if a login
// would ask for them.
func (o *Directory) Reach(ctx context.Context) error {
	_, err := o.issuer.keys.Get(ctx, "", o.issuer.fetch)
	return err
}

// MappedGroups implements [directory.Mapping].
func (o *Directory) MappedGroups() (groups []string) {
	for _, m := range o.Maps {
		groups = append(groups, m.Group)
	}
	return groups
}

// Interface guards
var (
	_ caddy.Provisioner  = (*Directory)(nil)
	_ caddy.CleanerUpper = (*Directory)(nil)
	_ directory.Sourced  = (*Directory)(nil)
	_ directory.Renamed  = (*Directory)(nil)
	_ directory.Costly   = (*Directory)(nil)
	_ directory.Mapping  = (*Directory)(nil)
	_ directory.Remote   = (*Directory)(nil)
)
