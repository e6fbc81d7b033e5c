package tokenissuer

import (
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// claims is the payload of a token. Times are in seconds since 1970. Missing
// times are zero, which Validate rejects.
type claims struct {
	Issuer    string `json:"iss"`
	Audience  string `json:"aud"`
	Subject   string `json:"sub"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	ExpiresAt int64  `json:"exp"`
	ID        string `json:"jti"`
	UserID    string `json:"user_id"`
	Version   string `json:"ver,omitempty"`
	Directory string `json:"dir,omitempty"`
	Facts     string `json:"fct,omitempty"`
	AuthTime  int64  `json:"auth_time,omitempty"`
	// Anonymous is explicit. In the token specification of registries an empty
	// sub means the same, but a mistake could easily produce that.
	Anonymous bool `json:"anonymous,omitempty"`

	// want is what the verifier requires. It is not part of the payload.
	want expectation
}

type expectation struct {
	issuer, audience string
	use              Use
	lifetime         time.Duration
}

func (c *claims) identity() Identity {
	return Identity{Name: c.Subject, Version: c.Version, Directory: c.Directory, Facts: c.Facts, Anonymous: c.Anonymous, AuthTime: c.AuthTime}
}

// Validate implements jwt.ClaimsValidator. The parser also compares exp, nbf and
// iat with the clock.
func (c *claims) Validate() error {
	longest := int64(c.want.lifetime / time.Second)
	switch {
	case c.Issuer == "" || c.Issuer != c.want.issuer:
		return errIssuer
	case c.Audience == "" || c.Audience != c.want.audience:
		return errAudience
	case c.IssuedAt <= 0 || c.NotBefore <= 0 || c.ExpiresAt <= c.IssuedAt || c.ExpiresAt-c.IssuedAt > longest:
		return errTimes
	case c.want.use == Refresh && (c.AuthTime <= 0 || c.AuthTime > c.IssuedAt || c.ExpiresAt-c.AuthTime > longest):
		return errTimes
	case c.UserID != c.Subject || c.identity().check() != nil:
		return errIdentity
	}
	return nil
}

// The following methods implement jwt.Claims.

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return date(c.ExpiresAt), nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return date(c.IssuedAt), nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return date(c.NotBefore), nil }
func (c *claims) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c *claims) GetSubject() (string, error)                  { return c.Subject, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return jwt.ClaimStrings{c.Audience}, nil }

func date(seconds int64) *jwt.NumericDate {
	if seconds == 0 {
		return nil
	}
	return jwt.NewNumericDate(time.Unix(seconds, 0))
}

// newParser returns a parser with the rules that apply to all tokens.
func newParser(now func() time.Time, leeway time.Duration) *jwt.Parser {
	return jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithStrictDecoding(),
		jwt.WithExpirationRequired(),
		jwt.WithNotBeforeRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway),
		jwt.WithTimeFunc(now),
	)
}

// reason converts an error of the parser, which may quote the token, into one
// that does not.
func reason(err error) error {
	var own *invalid
	switch {
	case errors.As(err, &own):
		// ErrTokenExpired is only for tokens that are otherwise valid.
		return own
	case errors.Is(err, jwt.ErrTokenMalformed):
		return errMalformed
	case errors.Is(err, jwt.ErrTokenUnverifiable):
		return errHeader // an algorithm that does not exist
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return errSignature
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return errTimes
	case errors.Is(err, jwt.ErrTokenExpired):
		return errExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return errNotYet
	}
	return errClaims
}
