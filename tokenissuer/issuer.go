package tokenissuer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// DefaultAudience is the audience of access tokens unless configured
	// otherwise, and the `service` of the bearer challenge.
	DefaultAudience = "dependency_proxy"
	// MinLifetime is the shortest lifetime of a token. Container clients
	// believe any token for 60 seconds and do not ask for a new one earlier.
	MinLifetime = 60 * time.Second
	// Leeway is the difference between two nodes' clocks that is forgiven when
	// iat, nbf and exp are checked. It also covers the last request of a
	// client that uses its token up to the last second.
	Leeway = 60 * time.Second
	// MaxTokenBytes is the length in bytes beyond which a token is refused
	// unread. Tokens of ours have 500 to 600.
	MaxTokenBytes = 8 << 10
	// DefaultCacheSize is how many verified tokens are remembered unless
	// configured otherwise. Each takes about 300 bytes.
	DefaultCacheSize = 4096

	// Limits of what goes into a token, in bytes; they keep it far below what
	// clients and proxies allow for a header.
	maxText   = 255
	maxFacts  = 1024
	maxIssuer = 512
)

// Use is what a token is for.
type Use uint8

const (
	// Access tokens open the registry's resources.
	Access Use = iota + 1
	// Refresh tokens buy access tokens, and open nothing.
	Refresh
)

// Identity is who a token speaks of. It holds no rights and no secrets, and
// is comparable.
type Identity struct {
	// Name is the account's name: at most 255 bytes of UTF-8 without control
	// characters. It is empty for an anonymous identity, and only for that.
	Name string
	// Version is the generation of the account's credentials, opaque here, at
	// most 255 bytes. A verifier that compares it with the account as it is
	// now ends all tokens of a password that has been changed. The payload of
	// a token can be read by anyone who holds it, so do not put there what
	// helps to guess a password, such as an unkeyed hash of it.
	Version string
	// Directory names the source that knows the account, at most 255 bytes;
	// may be empty. With it, alice of one directory is not alice of another.
	Directory string
	// Facts are what the directory wants to hear again when it looks the
	// account up, such as the claims of an id token: who, never what, and no
	// secret. Opaque here, at most 1 KiB; may be empty.
	Facts string
	// Anonymous marks somebody who did not say who it is. The other fields
	// are empty then.
	Anonymous bool
	// AuthTime is the time of the login that the token goes back to, in seconds
	// since 1970. A refresh token must have it, and ends with the key ring's
	// TokenLifetime after it; 0 for others.
	AuthTime int64
}

// check refuses what would not come back from a token as it went in, such as
// invalid UTF-8, which JSON replaces and could turn into another's name.
func (id Identity) check() error {
	if id.Anonymous {
		if id != (Identity{Anonymous: true}) {
			return errors.New("an anonymous identity has no name, version, directory or facts")
		}
		return nil
	}
	if id.Name == "" {
		return errors.New("the identity has no name")
	}
	for _, text := range []string{id.Name, id.Version, id.Directory} {
		if !isText(text, maxText) {
			return fmt.Errorf("name, version or directory is longer than %d bytes, not UTF-8, or has control characters", maxText)
		}
	}
	if !isText(id.Facts, maxFacts) {
		return fmt.Errorf("the facts are longer than %d bytes, not UTF-8, or have control characters", maxFacts)
	}
	return nil
}

func isText(s string, limit int) bool {
	if len(s) > limit || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}

// Config are the settings of an [Issuer]. Only KeyRing is required.
type Config struct {
	KeyRing *KeyRing
	// Audience is the aud claim of access tokens; empty means
	// [DefaultAudience]. That of refresh tokens is the same with "/refresh"
	// behind it, so neither passes for the other.
	Audience string
	// CacheSize is how many verified tokens are remembered; 0 means
	// [DefaultCacheSize].
	CacheSize int
}

// Issuer mints and verifies tokens. Several may share a [KeyRing]; each has
// its own memory of verified tokens. The methods may be called concurrently.
type Issuer struct {
	ring     *KeyRing
	audience string
	parser   *jwt.Parser
	verified *verifiedCache
}

// New makes an issuer. Like [NewKeyRing] it touches no storage.
func New(c Config) *Issuer {
	if c.Audience == "" {
		c.Audience = DefaultAudience
	}
	if c.CacheSize <= 0 {
		c.CacheSize = DefaultCacheSize
	}
	return &Issuer{
		ring:     c.KeyRing,
		audience: c.Audience,
		parser:   newParser(c.KeyRing.now),
		verified: newVerifiedCache(c.CacheSize),
	}
}

func (i *Issuer) audienceOf(use Use) string {
	switch use {
	case Access:
		return i.audience
	case Refresh:
		return i.audience + "/refresh"
	}
	return ""
}

// MintRequest says what token is wanted. Every field is required.
type MintRequest struct {
	// Issuer is the iss claim: the origin that the client used, such as
	// "https://registry.example.com", at most 512 bytes. A token is accepted
	// only where Verify is given the same.
	Issuer   string
	Identity Identity
	// Lifetime is cut to whole seconds. At least [MinLifetime], at most the
	// TokenLifetime of the key ring.
	Lifetime time.Duration
	Use      Use
}

// Token is a minted token. Both times are in UTC and whole seconds, as in the
// iat and exp claims.
type Token struct {
	Raw       string
	IssuedAt  time.Time
	ExpiresAt time.Time
}

// Mint makes a token: a JWS in compact serialisation (RFC 7515 section 7.1)
// with alg EdDSA and the claims iss, aud, sub, iat, nbf, exp and jti of RFC
// 7519, and user_id, which is the same as sub. The first Mint on a storage
// makes the first key.
//
// [ErrKeysUnavailable] means that there is no key to sign with and storage
// could not provide one; any other error is a request that can never succeed.
func (i *Issuer) Mint(ctx context.Context, r MintRequest) (Token, error) {
	if err := i.checkRequest(r); err != nil {
		return Token{}, fmt.Errorf("minting a token: %w", err)
	}
	issued := i.ring.now().UTC().Truncate(time.Second)
	expires := issued.Add(r.Lifetime.Truncate(time.Second))
	if last := time.Unix(r.Identity.AuthTime, 0).Add(i.ring.schedule.lifetime); r.Use == Refresh && expires.After(last) {
		expires = last.UTC()
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
	return Token{Raw: raw, IssuedAt: issued, ExpiresAt: expires}, nil
}

func (i *Issuer) checkRequest(r MintRequest) error {
	if r.Issuer == "" || !isText(r.Issuer, maxIssuer) {
		return fmt.Errorf("the issuer is empty, longer than %d bytes, not UTF-8, or has control characters", maxIssuer)
	}
	if i.audienceOf(r.Use) == "" {
		return errors.New("the token is for neither access nor refresh")
	}
	if r.Lifetime < MinLifetime || r.Lifetime > i.ring.schedule.lifetime {
		return fmt.Errorf("a lifetime of %s is not between %s and %s", r.Lifetime, MinLifetime, i.ring.schedule.lifetime)
	}
	if r.Identity.Anonymous && r.Use == Refresh {
		return errors.New("nobody can refresh an anonymous token")
	}
	if age := i.ring.now().Sub(time.Unix(r.Identity.AuthTime, 0)); r.Use == Refresh && (age < 0 || age > i.ring.schedule.lifetime-MinLifetime) {
		return fmt.Errorf("AuthTime was %s ago, and a refresh token ends %s after it", age, i.ring.schedule.lifetime)
	}
	return r.Identity.check()
}

// JWKS is the key set of the issuer's ring: see [KeyRing.JWKS].
func (i *Issuer) JWKS(ctx context.Context) ([]byte, error) { return i.ring.JWKS(ctx) }
