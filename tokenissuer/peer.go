package tokenissuer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record"
)

const (
	// PeerLifetime is the lifetime of a token for another node.
	PeerLifetime = 60 * time.Second

	// PeerLeeway is the tolerated difference between the clocks of two nodes when
	// the times of such a token are checked. It is shorter than [Leeway], because
	// the token is minted for one request.
	PeerLeeway = 10 * time.Second

	// MaxPeerFacts is the length of the longest facts of such a token, in bytes.
	MaxPeerFacts = 2 << 10
)

// peerClaims is the payload of a token for another node. It has no iss and no
// user_id, and an audience of its own, so that neither it nor a token of a client is
// accepted in place of the other.
type peerClaims struct {
	Audience  string `json:"aud"`
	Target    string `json:"sub"`
	Facts     string `json:"fct"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	ExpiresAt int64  `json:"exp"`

	audience, target string // which Validate requires
}

// MintPeer creates a token with which this node asks the node target, a text of 1 to
// 255 bytes, for what the facts describe: 1 byte to [MaxPeerFacts] of UTF-8 without
// control characters. The token is signed as those of [Issuer.Mint] and expires after
// [PeerLifetime]. Its aud claim is that of access tokens with "/peer" appended.
//
// MintPeer returns an [ErrKeysUnavailable] as Mint does.
func (i *Issuer) MintPeer(ctx context.Context, target, facts string) (string, error) {
	if target == "" || facts == "" || !record.IsText(target, maxText) || !record.IsText(facts, MaxPeerFacts) {
		return "", errors.New("minting a token for another node: target or facts are empty, too long, not UTF-8, or contain control characters")
	}
	issued := i.ring.now().Truncate(time.Second)
	expires := issued.Add(PeerLifetime)
	k, err := i.ring.signer(ctx, expires)
	if err != nil {
		return "", fmt.Errorf("minting a token for another node: %w", err)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, &peerClaims{
		Audience: i.peerAudience(), Target: target, Facts: facts,
		IssuedAt: issued.Unix(), NotBefore: issued.Unix(), ExpiresAt: expires.Unix(),
	})
	token.Header["kid"] = k.kid
	raw, err := token.SignedString(k.private)
	if err != nil {
		return "", fmt.Errorf("signing a token for another node: %w", err)
	}
	return raw, nil
}

// VerifyPeer returns the facts of a token that another node has minted for the node
// target. It returns an [ErrInvalidToken], an [ErrTokenExpired] and an
// [ErrKeysUnavailable] as [Issuer.Verify] does. Tokens are not remembered, since each
// is meant for one request.
func (i *Issuer) VerifyPeer(ctx context.Context, raw, target string) (facts string, err error) {
	if len(raw) > maxTokenBytes {
		return "", errTooLong
	}
	if !isCompact(raw) {
		return "", errMalformed
	}
	c := &peerClaims{audience: i.peerAudience(), target: target}
	var keyErr error
	_, err = newParser(i.ring.now, PeerLeeway).ParseWithClaims(raw, c, func(t *jwt.Token) (any, error) {
		var k *key
		if k, keyErr = i.keyOf(ctx, t.Header, c); keyErr != nil {
			return nil, keyErr
		}
		return k.public, nil
	})
	if keyErr != nil {
		return "", keyErr
	}
	if err != nil {
		return "", reason(err)
	}
	return c.Facts, nil
}

func (i *Issuer) peerAudience() string { return i.audience + "/peer" }

// Validate implements jwt.ClaimsValidator. The parser also compares exp, nbf and iat
// with the clock.
func (c *peerClaims) Validate() error {
	switch {
	case c.Audience != c.audience:
		return errAudience
	case c.Target == "" || c.Target != c.target:
		return errTarget
	case c.IssuedAt <= 0 || c.NotBefore <= 0 || c.ExpiresAt <= c.IssuedAt || c.ExpiresAt-c.IssuedAt > int64(PeerLifetime/time.Second):
		return errTimes
	case c.Facts == "" || !record.IsText(c.Facts, MaxPeerFacts):
		return errClaims
	}
	return nil
}

// The following methods implement jwt.Claims.

func (c *peerClaims) GetExpirationTime() (*jwt.NumericDate, error) { return date(c.ExpiresAt), nil }
func (c *peerClaims) GetIssuedAt() (*jwt.NumericDate, error)       { return date(c.IssuedAt), nil }
func (c *peerClaims) GetNotBefore() (*jwt.NumericDate, error)      { return date(c.NotBefore), nil }
func (c *peerClaims) GetIssuer() (string, error)                   { return "", nil }
func (c *peerClaims) GetSubject() (string, error)                  { return c.Target, nil }
func (c *peerClaims) GetAudience() (jwt.ClaimStrings, error) {
	return jwt.ClaimStrings{c.Audience}, nil
}
