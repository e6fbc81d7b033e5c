package tokenissuer

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record"
)

const (
	// MinLifetime is the shortest lifetime of a token. Container clients assume
	// that a token is valid for 60 seconds and do not request a new one earlier.
	MinLifetime = 60 * time.Second
	// Leeway is the tolerated difference between the clocks of two nodes when
	// iat, nbf and exp are checked. It also covers the last request of a client
	// that uses its token until it expires.
	Leeway = 60 * time.Second

	defaultPrefix        = "dependency_proxy/keys"
	defaultAudience      = "dependency_proxy"
	defaultTokenLifetime = 24 * time.Hour

	// maxTokenBytes is the length beyond which a token is rejected unparsed.
	// Tokens of this package have 500 to 600 bytes.
	maxTokenBytes = 8 << 10
	// verifiedTokens is the number of verified tokens that are remembered.
	// Each takes about 300 bytes.
	verifiedTokens = 4096
)

// Storage is where the signing keys are stored. It is a subset of
// certmagic.Storage, so any Caddy storage implements it.
type Storage = record.Storage

// Hooks report what the methods of an [Issuer] do not return as an error. Each
// hook is optional, must return quickly, and may be called concurrently. No
// argument contains a secret.
type Hooks struct {
	// BadKey reports a key file that is ignored because it is damaged or may
	// not be read. It is called once per file, and again if the file was valid
	// or absent in between.
	BadKey func(name string, err error)
	// StorageError reports a failure of the storage, even if a known key made
	// the call succeed. While the storage is away this happens every ten
	// seconds on a node that mints tokens, and up to once a second if tokens
	// with unknown keys arrive.
	StorageError func(err error)
	// KeyCreated reports that this node has created a key.
	KeyCreated func(kid string)
}

// Config configures an [Issuer]. Only Storage is required.
type Config struct {
	Storage Storage
	// Prefix is the storage path of the key files, "dependency_proxy/keys" if
	// empty. It must not contain other files.
	Prefix string
	// Audience is the aud claim of access tokens, "dependency_proxy" if empty.
	// Refresh tokens have the same with "/refresh" appended, so that neither
	// is accepted in place of the other.
	Audience string
	// Rotate is the age at which a key gets a successor. 0 means never: a key
	// created with this setting verifies tokens until its file is deleted,
	// even if the setting changes.
	Rotate time.Duration
	// TokenLifetime is the longest lifetime of a token, refresh tokens
	// included. 0 means 24 hours, and less than [MinLifetime] means that.
	// Tokens with a longer lifetime are neither minted nor accepted, so a
	// shorter setting ends tokens that were issued before.
	TokenLifetime time.Duration
	// Now returns the current time; time.Now if nil.
	Now   func() time.Time
	Hooks Hooks
}

// Issuer mints and verifies tokens. Its methods may be called concurrently.
//
// While the storage is away, known keys continue to sign and verify. Verifying
// a token of a known key never waits for the storage. Once a minute, one call
// of Mint waits while the storage is listed, but not longer than the storage's
// time limits of five seconds or the caller's context allow. It then uses the
// known keys, as all other calls do meanwhile.
type Issuer struct {
	ring     *keyRing
	audience string
	parser   *jwt.Parser
	// verified contains tokens by their SHA-256. Rejected tokens are not
	// remembered, because anyone could fill the memory with them.
	verified *lru.Cache[[sha256.Size]byte, *verified]
}

// New returns an issuer. It does not access the storage: the first key is
// created with the first token.
func New(c Config) *Issuer {
	if c.Now == nil {
		c.Now = time.Now
	}
	cache, err := lru.New[[sha256.Size]byte, *verified](verifiedTokens)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &Issuer{
		ring:     newKeyRing(c),
		audience: cmp.Or(c.Audience, defaultAudience),
		parser:   newParser(c.Now, Leeway),
		verified: cache,
	}
}

// audienceOf returns the aud claim of tokens for a use, "" for an unknown use.
func (i *Issuer) audienceOf(use Use) string {
	switch use {
	case Access:
		return i.audience
	case Refresh:
		return i.audience + "/refresh"
	}
	return ""
}

// MintRequest describes a token to mint. All fields are required.
type MintRequest struct {
	// Issuer is the iss claim: the origin that the client used, such as
	// "https://registry.example.com", in at most 512 bytes. Verify accepts the
	// token only with the same value.
	Issuer   string
	Identity Identity
	// Lifetime is truncated to seconds. It must be at least [MinLifetime] and
	// at most [Config.TokenLifetime].
	Lifetime time.Duration
	Use      Use
}

// Token is a minted token.
type Token struct {
	Raw string
	// IssuedAt is the iat claim: UTC, in whole seconds.
	IssuedAt time.Time
}

// Mint creates a token: a JWS in compact serialization (RFC 7515 section 7.1)
// with alg EdDSA, the claims iss, aud, sub, iat, nbf, exp and jti of RFC 7519,
// and user_id, which equals sub. The first call on an empty storage also creates
// the signing key.
//
// It returns an [ErrKeysUnavailable] if there is no key to sign with and the
// storage cannot provide one. Any other error means that the request is invalid.
func (i *Issuer) Mint(ctx context.Context, r MintRequest) (Token, error) {
	if err := i.checkRequest(r); err != nil {
		return Token{}, fmt.Errorf("minting a token: %w", err)
	}
	issued := i.ring.now().UTC().Truncate(time.Second)
	expires := issued.Add(r.Lifetime.Truncate(time.Second))
	if last := time.Unix(r.Identity.AuthTime, 0).Add(i.ring.schedule.lifetime); r.Use == Refresh && expires.After(last) {
		expires = last
	}
	k, err := i.ring.signer(ctx, expires)
	if err != nil {
		return Token{}, fmt.Errorf("minting a token: %w", err)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, &claims{
		Issuer:    r.Issuer,
		Audience:  i.audienceOf(r.Use),
		Subject:   r.Identity.Name,
		UserID:    r.Identity.Name,
		Anonymous: r.Identity.Anonymous,
		Version:   r.Identity.Version,
		Directory: r.Identity.Directory,
		Facts:     r.Identity.Facts,
		AuthTime:  r.Identity.AuthTime,
		IssuedAt:  issued.Unix(),
		NotBefore: issued.Unix(),
		ExpiresAt: expires.Unix(),
		ID:        rand.Text(),
	})
	token.Header["kid"] = k.kid
	raw, err := token.SignedString(k.private)
	if err != nil {
		return Token{}, fmt.Errorf("signing a token: %w", err)
	}
	return Token{Raw: raw, IssuedAt: issued}, nil
}

func (i *Issuer) checkRequest(r MintRequest) error {
	longest := i.ring.schedule.lifetime
	if r.Issuer == "" || !record.IsText(r.Issuer, maxIssuer) {
		return fmt.Errorf("the issuer is empty, is longer than %d bytes, is not UTF-8, or contains control characters", maxIssuer)
	}
	if i.audienceOf(r.Use) == "" {
		return fmt.Errorf("unknown use %d; use Access or Refresh", r.Use)
	}
	if r.Lifetime < MinLifetime || r.Lifetime > longest {
		return fmt.Errorf("lifetime %s is not between %s and %s", r.Lifetime, MinLifetime, longest)
	}
	if r.Identity.Anonymous && r.Use == Refresh {
		return errors.New("an anonymous identity cannot have a refresh token")
	}
	if age := i.ring.now().Sub(time.Unix(r.Identity.AuthTime, 0)); r.Use == Refresh && (age < 0 || age > longest-MinLifetime) {
		return fmt.Errorf("the login was %s ago, and a refresh token expires %s after it; log in again", age, longest)
	}
	return r.Identity.check()
}

// JWKS returns the JSON Web Key Set (RFC 7517 section 5) of the public keys that
// verify tokens, oldest first. It is empty before the first token. JWKS lists
// the storage at most once a minute, and returns an [ErrKeysUnavailable] only if
// the listing fails and no key is known.
func (i *Issuer) JWKS(ctx context.Context) ([]byte, error) { return i.ring.jwks(ctx) }
