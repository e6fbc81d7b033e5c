package oidc

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

func init() { caddy.RegisterModule(new(Directory)) }

// Directory lets an id token be a login: that of a CI job (GitHub Actions,
// GitLab CI), of a Kubernetes service account, or of any other issuer with
// OpenID Connect Discovery. It is sent as the password, with any user name that
// no directory before this one knows; so nothing secret has to be stored where
// images are pulled. There is one such directory for an issuer.
//
// An id token gets in if the issuer has signed it (RSA, ECDSA or Ed25519), for
// one of the audiences, if it is neither expired nor older than MaxAge, if each
// requirement holds, and, where there are maps, if one of them fits. What these
// rules look at travels in our own token and is held at each pull against the
// rules as they are then. Of a claim that is a list only the elements that some
// rule asks for travel, so a new rule about others waits for the next login.
//
// A claim's name that begins with a slash is a JSON pointer (RFC 6901), as in
// /kubernetes.io/namespace; any other is the name of a claim as it is. Text is
// compared as it is, numbers and truth values as they are written in JSON; of a
// list it is enough that one element fits.
//
// The issuer is asked for its keys at the first login, and then when they are
// 15 minutes old or one is missing, at most every 10 seconds. If it is away,
// known keys serve for an hour.
type Directory struct {
	// Name names the directory where its accounts are listed, as in
	// NAME:repo:acme/app:ref:refs/heads/main. The default is oidc.
	Name string `json:"name,omitempty"`

	// Issuer is the URL that the tokens have in `iss`, and where the discovery
	// document is. It must be https, or on this machine.
	Issuer string `json:"issuer"`

	// Audiences are those in `aud` that are meant for this registry. One that
	// others use too would let them log in with the tokens that they are sent.
	Audiences []string `json:"audiences"`

	// Account is the claim that names the account: sub by default.
	Account string `json:"account,omitempty"`

	// Require are claims without which nobody gets in. All must hold.
	Require []*Requirement `json:"require,omitempty"`

	// Maps make accounts members of groups. Without them, or a requirement,
	// everybody would get in whom the issuer knows, so there must be some.
	Maps []*Map `json:"map,omitempty"`

	// MaxAge is how long an id token is good for after it was issued (`iat`),
	// if it does not expire before: 1h by default, at least 1m. Our own tokens
	// that were given for it, refresh tokens included, end then too.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// Transport asks the issuer, for one with a private CA; by default a plain
	// one that uses no proxy.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	rules  rules
	issuer *issuer
}

// Requirement is a claim that must have one of some values.
type Requirement struct {
	Claim string `json:"claim"`

	// Values may each end in *, for all that begin alike.
	Values []string `json:"values"`
}

// Map gives a role in a group to whoever has a claim with a value.
type Map struct {
	Claim string `json:"claim"`

	// Value may end in *, for all that begin alike. Mind what else does:
	// acme* is acme-evil too, acme/* is not.
	Value string `json:"value"`

	Group string `json:"group"`

	// Role is member (the default), maintainer or owner.
	Role string `json:"role,omitempty"`
}

const (
	defaultOIDCMaxAge = time.Hour
	// maxIDToken is how long a password may be to be looked at, in bytes.
	maxIDToken = 16 << 10
	// maxReason is how much of an error is kept, in bytes, where it may quote
	// what a stranger wrote.
	maxReason = 300
)

// algorithms are all asymmetric ones: with another, the issuer's public key
// would be a password.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// CaddyModule returns the Caddy module information.
func (*Directory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.directory.oidc",
		New: func() caddy.Module { return new(Directory) },
	}
}

// Provision checks the rules. It asks the issuer nothing.
func (o *Directory) Provision(ctx caddy.Context) error {
	if err := o.check(); err != nil {
		return err
	}
	o.rules = o.compile()
	if o.TransportRaw == nil {
		o.issuer = newIssuer(o.Issuer, upstream.NewTransport(upstream.TransportConfig{AllowPrivate: true}))
		return nil
	}
	mod, err := ctx.LoadModule(o, "TransportRaw")
	if err != nil {
		return err
	}
	transport, ok := mod.(http.RoundTripper)
	if !ok {
		return fmt.Errorf("transport %T cannot be used here", mod)
	}
	o.issuer = newIssuer(o.Issuer, transport)
	return nil
}

// Cleanup closes what connections are idle. A login that is late makes others.
func (o *Directory) Cleanup() error {
	if o.issuer != nil {
		o.issuer.client.CloseIdleConnections()
	}
	return nil
}

// Authenticate implements [Directory]. The user name does not matter.
func (o *Directory) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	switch issuerOf(login.Password) {
	case o.Issuer:
	case "":
		return directory.Account{}, directory.ErrUnknownAccount
	default:
		return directory.Account{}, fmt.Errorf("%w: the id token is another issuer's", directory.ErrUnknownAccount)
	}
	signed, err := jose.ParseSignedCompact(login.Password, algorithms)
	if err != nil {
		return directory.Account{}, refusedIDToken(err)
	}
	keys, err := o.issuer.keysFor(ctx, signed.Signatures[0].Header)
	if err != nil {
		return directory.Account{}, err
	}
	facts, err := o.verify(ctx, login.Password, tokenKeys{signed, keys})
	if err != nil {
		return directory.Account{}, refusedIDToken(err)
	}
	account, err := o.rules.judge(facts, time.Now())
	if err != nil {
		return directory.Account{}, refusedIDToken(err)
	}
	return account, nil
}

// Lookup implements [Directory]. All it knows of an account are the facts, so
// it knows none by its name alone.
func (o *Directory) Lookup(_ context.Context, name, facts string) (directory.Account, error) {
	claims, err := parseClaims(facts)
	if err != nil {
		return directory.Account{}, fmt.Errorf("%w: %w", directory.ErrUnknownAccount, err)
	}
	account, err := o.rules.judge(claims, time.Now())
	if err != nil {
		return directory.Account{}, fmt.Errorf("%w: %w", directory.ErrUnknownAccount, err)
	}
	if account.Name != name {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	return account, nil
}

// FormerName implements Renamed: earlier versions put the issuer before
// the name. The claims say whether it was so.
func (o *Directory) FormerName(name, facts string) string {
	claims, err := parseClaims(facts)
	if err != nil || len(claims[o.rules.account]) != 1 {
		return name
	}
	now := claims[o.rules.account][0]
	if name == directory.FormerPrefix(o.Issuer)+now {
		return now
	}
	return name
}

// Source implements [Sourced]: the accounts are those of the issuer.
func (o *Directory) Source() string { return o.Issuer }

// Feign implements [Costly]. An id token of this issuer is judged by its
// keys, which may have to be asked for; the name does not matter.
func (o *Directory) Feign(ctx context.Context, login directory.Login) error {
	if issuerOf(login.Password) != o.Issuer {
		return nil
	}
	signed, err := jose.ParseSignedCompact(login.Password, algorithms)
	if err != nil {
		return nil // which needs no keys to be refused
	}
	_, err = o.issuer.keysFor(ctx, signed.Signatures[0].Header)
	return err
}

// verify checks an id token's signature and times, and returns what the rules
// look at.
func (o *Directory) verify(ctx context.Context, raw string, keys tokenKeys) (claimSet, error) {
	config := &oidc.Config{SkipClientIDCheck: true} // the audiences are a rule, which is judged again
	for _, algorithm := range algorithms {
		config.SupportedSigningAlgs = append(config.SupportedSigningAlgs, string(algorithm))
	}
	token, err := oidc.NewVerifier(o.Issuer, keys, config).Verify(ctx, raw)
	if err != nil {
		return nil, err
	}
	var payload json.RawMessage
	if err := token.Claims(&payload); err != nil {
		return nil, err
	}
	if !utf8.Valid(payload) {
		return nil, errors.New("the claims are not UTF-8") // as text, two of them could become the same
	}
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	var claims map[string]any
	if err := decoder.Decode(&claims); err != nil {
		return nil, err
	}
	return o.rules.facts(claims, token.IssuedAt), nil
}

// issuerOf is what a password says its issuer is, if it is a signed token.
// Nothing is verified.
func issuerOf(password string) string {
	parts := strings.Split(password, ".")
	if len(parts) != 3 || len(password) > maxIDToken {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return ""
	}
	return claims.Issuer
}

func refusedIDToken(reason error) error {
	return fmt.Errorf("%w: the id token is refused: %.*s", directory.ErrWrongPassword, maxReason, reason)
}

// Interface guards
var (
	_ caddy.Provisioner  = (*Directory)(nil)
	_ caddy.CleanerUpper = (*Directory)(nil)
	_ directory.Sourced  = (*Directory)(nil)
	_ directory.Renamed  = (*Directory)(nil)
	_ directory.Costly   = (*Directory)(nil)
)
