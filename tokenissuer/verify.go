package tokenissuer

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Verify returns the identity in a token. It is fast enough for each request: a
// token that was verified before costs one hash and one lookup.
//
// iss and use must be the values that the token was minted with. Verify returns
// an [ErrInvalidToken] for each token that it rejects; it is an [ErrTokenExpired]
// too if the token is otherwise valid. It returns an [ErrKeysUnavailable], which
// is neither, if the signing key is not known and the storage cannot be asked
// for it. The token may be valid then.
//
// Verify accepts exactly what Mint creates. The header has the members alg
// (EdDSA), typ (JWT) and kid and no others, such as jwk, jku, x5c or crit (RFC
// 7515 section 4.1). The signature is of a known key, in canonical base64url
// (RFC 7515 section 2). The claims iss, aud, iat, nbf and exp are present, the
// times are valid within [Leeway], and the lifetime is at most
// [Config.TokenLifetime], which for a refresh token counts from its auth_time.
func (i *Issuer) Verify(ctx context.Context, raw, iss string, use Use) (Identity, error) {
	if len(raw) > maxTokenBytes {
		return Identity{}, errTooLong
	}
	// A token is a credential, so only its hash is kept in memory.
	var buf [1024]byte // large enough to hash tokens without an allocation
	sum := sha256.Sum256(append(buf[:0], raw...))
	if v, ok := i.verified.Get(sum); ok {
		now := i.ring.now()
		if v.key.usable(now) {
			if err := v.check(now, iss, use); err != nil {
				return Identity{}, err
			}
			return v.id, nil
		}
		i.verified.Remove(sum)
	}
	v, err := i.verify(ctx, raw, iss, use)
	if err != nil {
		return Identity{}, err
	}
	i.verified.Add(sum, v)
	return v.id, nil
}

// verify verifies a token that is not remembered.
func (i *Issuer) verify(ctx context.Context, raw, iss string, use Use) (*verified, error) {
	if !isCompact(raw) {
		return nil, errMalformed
	}
	want := expectation{issuer: iss, audience: i.audienceOf(use), use: use, lifetime: i.ring.schedule.lifetime}
	c := &claims{want: want}
	var k *key
	var keyErr error
	_, err := i.parser.ParseWithClaims(raw, c, func(t *jwt.Token) (any, error) {
		if k, keyErr = i.keyOf(ctx, t.Header, c); keyErr != nil {
			return nil, keyErr
		}
		return k.public, nil
	})
	if keyErr != nil {
		return nil, keyErr
	}
	if err != nil {
		return nil, reason(err)
	}
	return &verified{
		id:      c.identity(),
		issuer:  iss,
		use:     use,
		expires: time.Unix(c.ExpiresAt, 0).Add(Leeway),
		key:     k,
	}, nil
}

// keyOf returns the key that is named in the header of a token.
func (i *Issuer) keyOf(ctx context.Context, header map[string]any, c jwt.Claims) (*key, error) {
	// With exactly these three members, the header cannot contain a jwk or a
	// crit.
	kid, isString := header["kid"].(string)
	if len(header) != 3 || header["alg"] != jwt.SigningMethodEdDSA.Alg() || header["typ"] != "JWT" || !isString {
		return nil, errHeader
	}
	if k := i.ring.keys.Load().verifier(kid, i.ring.now()); k != nil {
		return k, nil
	}
	// Do not list the storage for a token that no signature can make valid.
	validator := jwt.NewValidator(jwt.WithLeeway(Leeway), jwt.WithTimeFunc(i.ring.now))
	if validator.Validate(c) != nil {
		return nil, errUnknownKey
	}
	k, err := i.ring.find(ctx, kid)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
	}
	if k == nil {
		return nil, errUnknownKey
	}
	return k, nil
}

// isCompact reports whether raw consists of three parts in base64url, of which
// the last has the length of a signature. Go's decoder ignores line breaks even
// in strict mode, which would give a token any number of encodings.
func isCompact(raw string) bool {
	dots, last := 0, 0
	for i := range len(raw) {
		switch c := raw[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.':
			dots++
			last = i
		default:
			return false
		}
	}
	return dots == 2 && len(raw)-last-1 == b64.EncodedLen(ed25519.SignatureSize)
}

// verified is the result of a successful verification.
type verified struct {
	id      Identity
	issuer  string
	use     Use
	expires time.Time // including the leeway
	key     *key
}

// check repeats the checks whose result depends on the time and on the arguments
// of Verify.
func (v *verified) check(now time.Time, iss string, use Use) error {
	switch {
	case v.issuer != iss:
		return errIssuer
	case v.use != use:
		return errAudience
	case !now.Before(v.expires):
		return errExpired
	}
	return nil
}
