package access

import (
	"errors"
	"fmt"
)

// RequestError is an error in the request of a client that may read its text,
// such as an administrator or the owner of a group. It says what to change.
type RequestError string

// Error implements error.
func (e RequestError) Error() string { return string(e) }

// Errorf returns a [RequestError] with a formatted text. It does not wrap errors.
func Errorf(format string, args ...any) error { return RequestError(fmt.Sprintf(format, args...)) }

// ErrAmbiguous is the reason why access tokens are off at a site; see
// [Accounts.DisableTokens].
var ErrAmbiguous = errors.New("sites with the same name have different accounts or groups; give each site its own name to use access tokens")
