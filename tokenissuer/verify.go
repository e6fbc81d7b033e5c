package tokenissuer

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"
)

// Verify says who raw speaks of. It is meant for each request: a token that
// was verified before costs one hash of it and a look-up.
//
// iss and use must be those that the token was minted with. Every refusal is
// an [ErrInvalidToken], and [ErrTokenExpired] too where age is the only fault.
// Only an [ErrKeysUnavailable] is neither: the token names a key that is not
// known here, and storage could not be asked for it. Nobody is authenticated
// then, but the client's token may be good.
//
// Accepted is what Mint makes and nothing else: alg EdDSA, typ JWT and kid in
// the header and no other member (RFC 7515 section 4.1: no jwk, jku, x5c,
// crit), the signature of a known key, canonical base64url (section 2), all of
// iss, aud, iat, nbf and exp, times within [Leeway], and no longer a lifetime
// than the key ring allows, which for a refresh token counts from its auth_time.
func (i *Issuer) Verify(ctx context.Context, raw, iss string, use Use) (Identity, error) {
	if len(raw) > MaxTokenBytes {
		return Identity{}, errTooLong
	}
	// The token itself is a credential; only its hash stays in memory.
	var buf [1024]byte // room for all tokens of ours, without an allocation
	sum := sha256.Sum256(append(buf[:0], raw...))
	if v, ok := i.verified.get(sum); ok {
		now := i.ring.now()
		if v.key.alive(now) {
			if err := v.check(now, iss, use); err != nil {
				return Identity{}, err
			}
			return v.id, nil
		}
		i.verified.remove(sum)
	}
	v, err := i.verify(ctx, raw, iss, use)
	if err != nil {
		return Identity{}, err
	}
	i.verified.add(sum, v)
	return v.id, nil
}

// verify is the long way: parse, find the key, check.
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

// keyOf is the key that must have signed a token with this header.
func (i *Issuer) keyOf(ctx context.Context, header map[string]any, c *claims) (*key, error) {
	// Three members and these three: there is no room for a jwk or a crit.
	kid, isString := header["kid"].(string)
	if len(header) != 3 || header["alg"] != jwt.SigningMethodEdDSA.Alg() || header["typ"] != "JWT" || !isString {
		return nil, errHeader
	}
	if k := i.ring.keys.Load().verifier(kid, i.ring.now()); k != nil {
		return k, nil
	}
	// A token that no key could make good is not worth a look into storage.
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

// isCompact says whether raw consists of three parts of base64url, the last of
// the length of a signature. Go's decoder skips line breaks even when strict,
// which would give each token any number of spellings.
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

// verified is what is remembered of a token that was found good.
type verified struct {
	id      Identity
	issuer  string
	use     Use
	expires time.Time // leeway included
	key     *key
}

// check is what of a verification depends on the moment and on the question.
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

// verifiedCache remembers verified tokens by their SHA-256. Refused ones are
// not remembered: anyone could fill the memory with them. The shards spread
// the lock that each hit takes.
type verifiedCache [16]*lru.Cache[[sha256.Size]byte, *verified]

func newVerifiedCache(size int) *verifiedCache {
	var c verifiedCache
	for i := range c {
		shard, err := lru.New[[sha256.Size]byte, *verified](max(size/len(c), 1))
		if err != nil {
			panic(errors.Join(errors.New("making a cache of a positive size"), err))
		}
		c[i] = shard
	}
	return &c
}

func (c *verifiedCache) shard(sum [sha256.Size]byte) *lru.Cache[[sha256.Size]byte, *verified] {
	return c[int(sum[0])%len(c)]
}

func (c *verifiedCache) get(sum [sha256.Size]byte) (*verified, bool) { return c.shard(sum).Get(sum) }
func (c *verifiedCache) add(sum [sha256.Size]byte, v *verified)      { c.shard(sum).Add(sum, v) }
func (c *verifiedCache) remove(sum [sha256.Size]byte)                { c.shard(sum).Remove(sum) }
