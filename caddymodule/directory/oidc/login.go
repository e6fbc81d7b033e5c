package oidc

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

const (
	// maxIDToken is the limit on a password that is looked at, in bytes.
	maxIDToken = 16 << 10
	// maxReason is the limit on the text of an error that may quote a token or an
	// answer, in bytes.
	maxReason = 300
)

// algorithms are the asymmetric algorithms. With any other, the public key of the issuer
// would be a password.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// Authenticate implements [directory.Directory]. The user name does not matter.
func (o *Directory) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	switch issuerOf(login.Password) {
	case o.Issuer:
	case "":
		return directory.Account{}, directory.ErrUnknownAccount
	default:
		return directory.Account{}, fmt.Errorf("%w: the id token is from another issuer", directory.ErrUnknownAccount)
	}
	signed, err := jose.ParseSignedCompact(login.Password, algorithms)
	if err != nil {
		return directory.Account{}, refused(err)
	}
	keys, err := o.issuer.keysFor(ctx, signed.Signatures[0].Header)
	if err != nil {
		return directory.Account{}, err
	}
	facts, err := o.verify(ctx, login.Password, tokenKeys{signed, keys})
	if err != nil {
		return directory.Account{}, refused(err)
	}
	account, err := o.rules.judge(facts, time.Now())
	if err != nil {
		return directory.Account{}, refused(err)
	}
	return account, nil
}

func refused(reason error) error {
	return fmt.Errorf("%w: the id token is refused: %.*s", directory.ErrWrongPassword, maxReason, reason)
}

// Lookup implements [directory.Directory]. An account is known by its facts only, so
// without them it is unknown.
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

// FormerName implements [directory.Renamed]: in tokens of earlier versions, the issuer
// comes before the name. The claims tell which of the two it is.
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

// Feign implements [directory.Costly]. To refuse an id token of this issuer may take a
// question for its keys, whatever the user name is.
func (o *Directory) Feign(ctx context.Context, login directory.Login) error {
	if issuerOf(login.Password) != o.Issuer {
		return nil
	}
	signed, err := jose.ParseSignedCompact(login.Password, algorithms)
	if err != nil {
		return nil // is refused without keys
	}
	_, err = o.issuer.keysFor(ctx, signed.Signatures[0].Header)
	return err
}

// verify checks the signature and the times of an id token, and returns the claims that
// the rules look at.
func (o *Directory) verify(ctx context.Context, raw string, keys tokenKeys) (claimSet, error) {
	config := &oidc.Config{SkipClientIDCheck: true} // the audiences are a rule
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
		return nil, errors.New("the claims are not UTF-8") // as text, two of them could become equal
	}
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	var claims map[string]any
	if err := decoder.Decode(&claims); err != nil {
		return nil, err
	}
	return o.rules.facts(claims, token.IssuedAt), nil
}

// issuerOf returns the issuer that a password names, if it has the form of a signed
// token. It verifies nothing.
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
