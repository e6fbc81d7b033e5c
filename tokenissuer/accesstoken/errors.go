package accesstoken

import (
	"errors"
	"fmt"
	"io/fs"
)

// The reasons for which a token is no good. Their texts name nothing out of the
// secret, so they are safe to log. A token that does not exist is
// [fs.ErrNotExist].
var (
	// ErrMalformed is a secret that is mistyped, cut, or of another kind.
	ErrMalformed = errors.New("not an access token, or a mistyped one")
	// ErrRevoked is a token that was ended before its time.
	ErrRevoked = errors.New("the access token has been revoked")
	// ErrExpired is a token whose time is over.
	ErrExpired = errors.New("the access token has expired")
)

// ErrUnavailable says that a token could not be judged, because storage does
// not answer or because too many unknown ones are asked for. It may well be
// good: answer with a 503 that invites a retry. Nobody has been authenticated.
var ErrUnavailable = errors.New("access tokens unavailable")

// IsRefusal tells a token that is no good from one that cannot be judged.
func IsRefusal(err error) bool {
	return errors.Is(err, ErrMalformed) || errors.Is(err, ErrRevoked) || errors.Is(err, ErrExpired) || errors.Is(err, fs.ErrNotExist)
}

// errAbsent is a token that does not exist.
var errAbsent = fmt.Errorf("no such access token: %w", fs.ErrNotExist)
