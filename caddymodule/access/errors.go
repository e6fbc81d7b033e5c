package access

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
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

// outage returns an error that means that a directory could not answer, and nil for a
// refusal and for the absence of a group, which are answers.
func outage(err error) error {
	if directory.IsRefusal(err) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
