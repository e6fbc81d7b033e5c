package tokenissuer

import "errors"

// ErrInvalidToken is the error of each rejected token: forged, truncated,
// expired, issued for another purpose, or signed by an unknown key. The text of
// the error that wraps it contains the reason and nothing from the token, so it
// can be logged. It is not meant for the client.
var ErrInvalidToken = errors.New("invalid token")

// ErrTokenExpired is, in addition to [ErrInvalidToken], the error of a token that
// is valid except that it has expired.
var ErrTokenExpired = errors.New("token expired")

// ErrKeysUnavailable means that the storage of the keys did not answer, so that
// a token could not be minted or verified. The token may be valid, so the error
// is never an [ErrInvalidToken]: answer with a 503 and Retry-After, because
// a 401 makes clients discard the token. The client is not authenticated.
var ErrKeysUnavailable = errors.New("signing keys unavailable")

// invalid is an [ErrInvalidToken] with its reason. All values are declared below,
// so that rejecting a token does not allocate.
type invalid struct {
	reason  string
	expired bool
}

func (e *invalid) Error() string { return "invalid token: " + e.reason }

func (e *invalid) Is(target error) bool {
	return target == ErrInvalidToken || e.expired && target == ErrTokenExpired
}

var (
	errTooLong    = &invalid{reason: "too long"}
	errMalformed  = &invalid{reason: "malformed"}
	errHeader     = &invalid{reason: "the header is not alg EdDSA, typ JWT and kid"}
	errUnknownKey = &invalid{reason: "unknown signing key"}
	errSignature  = &invalid{reason: "wrong signature"}
	errExpired    = &invalid{reason: "expired", expired: true}
	errNotYet     = &invalid{reason: "not valid yet"}
	errTimes      = &invalid{reason: "iat, nbf, exp or auth_time is missing or out of range"}
	errIssuer     = &invalid{reason: "wrong issuer"}
	errAudience   = &invalid{reason: "wrong audience"}
	errTarget     = &invalid{reason: "minted for another process"}
	errIdentity   = &invalid{reason: "inconsistent identity"}
	errClaims     = &invalid{reason: "invalid claims"}
)
