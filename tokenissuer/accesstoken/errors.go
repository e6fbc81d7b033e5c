package accesstoken

import (
	"errors"
	"fmt"
	"io/fs"
)

// Reasons to reject a token. The texts contain nothing from the secret, so they
// can be logged. The error of a token that does not exist is [fs.ErrNotExist].
var (
	// ErrMalformed is the error of a secret that is mistyped, truncated, or not
	// an access token.
	ErrMalformed = errors.New("malformed access token")
	// ErrRevoked is the error of a token that has been revoked.
	ErrRevoked = errors.New("the access token has been revoked")
	// ErrExpired is the error of a token that has expired.
	ErrExpired = errors.New("the access token has expired")
)

// ErrUnavailable means that a token could not be verified, because the storage
// does not answer or too many unknown tokens are being looked up. The token may
// be valid, so answer with a 503 and Retry-After. The client is not authenticated.
var ErrUnavailable = errors.New("access tokens unavailable")

// IsRefusal reports whether err rejects a token, as opposed to a failure to
// verify it.
func IsRefusal(err error) bool {
	return errors.Is(err, ErrMalformed) || errors.Is(err, ErrRevoked) || errors.Is(err, ErrExpired) || errors.Is(err, fs.ErrNotExist)
}

// errAbsent is the error of a token that does not exist.
var errAbsent = fmt.Errorf("no such access token: %w", fs.ErrNotExist)

func unavailable(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, err)
}
