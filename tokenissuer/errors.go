package tokenissuer

import "errors"

// ErrInvalidToken is what every refused token is, whatever the reason: forged,
// cut, expired, for somebody else, or signed by a key nobody knows. The text
// of the wrapping error names the reason and nothing out of the token, so it
// is safe to log; it is not meant for the client.
var ErrInvalidToken = errors.New("invalid token")

// ErrTokenExpired is, besides [ErrInvalidToken], the error of a token that was
// genuine in every respect and is merely too old.
var ErrTokenExpired = errors.New("token expired")

// ErrKeysUnavailable says that the keys' storage did not answer when it had to
// be asked: a token could be neither minted nor judged. It is never an
// [ErrInvalidToken], because the token may well be good: answer with a 503 that
// invites a retry rather than with a 401, which makes clients throw a good
// token away. Nobody has been authenticated either way.
var ErrKeysUnavailable = errors.New("signing keys unavailable")

// invalid is an [ErrInvalidToken] with its reason. The values below are made
// once, so refusing a token costs no allocation.
type invalid struct {
	reason  string
	expired bool
}

func (e *invalid) Error() string { return "invalid token: " + e.reason }

func (e *invalid) Is(target error) bool {
	return target == ErrInvalidToken || e.expired && target == ErrTokenExpired
}

var (
	errTooLong    = &invalid{reason: "longer than a token may be"}
	errMalformed  = &invalid{reason: "malformed"}
	errHeader     = &invalid{reason: "header other than alg EdDSA, typ JWT and kid"}
	errUnknownKey = &invalid{reason: "signed by no known key"}
	errSignature  = &invalid{reason: "wrong signature"}
	errExpired    = &invalid{reason: "expired", expired: true}
	errNotYet     = &invalid{reason: "not valid yet"}
	errTimes      = &invalid{reason: "iat, nbf or exp missing, or too far apart"}
	errIssuer     = &invalid{reason: "other issuer"}
	errAudience   = &invalid{reason: "other audience"}
	errIdentity   = &invalid{reason: "contradictory identity"}
	errClaims     = &invalid{reason: "claims refused"}
)
