package tokenissuer

import (
	"errors"
	"fmt"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record"
)

// Limits of the texts in a token, in bytes. They keep tokens far below the
// size that clients and proxies allow for a header.
const (
	maxText   = 255
	maxFacts  = 1024
	maxIssuer = 512
)

// Use is the purpose of a token.
type Use uint8

const (
	// Access tokens give access to the resources of the registry.
	Access Use = iota + 1
	// Refresh tokens can be exchanged for access tokens. They give access to
	// nothing else.
	Refresh
)

// Identity is the account that a token was issued to. It contains no
// permissions and no secrets, and is comparable.
type Identity struct {
	// Name is the name of the account: at most 255 bytes of UTF-8 without
	// control characters. It is empty if, and only if, Anonymous is set.
	Name string
	// Version identifies the current credentials of the account, in at most
	// 255 bytes that this package does not interpret. If it changes with the
	// password, comparing it with the account's current version ends all
	// tokens issued for the old password. Anyone who holds a token can read
	// it, so it must not help to guess a password, as an unkeyed hash would.
	Version string
	// Directory names the directory that the account is in, in at most 255
	// bytes. It may be empty. Accounts with the same name in different
	// directories are different accounts.
	Directory string
	// Facts contains what the directory needs to look up the account again,
	// such as the claims of an id token: at most 1 KiB that this package does
	// not interpret, without secrets. It may be empty.
	Facts string
	// Anonymous is set for a client that did not log in. All other fields are
	// empty then.
	Anonymous bool
	// AuthTime is the time of the login, in seconds since 1970. It is required
	// for a refresh token, which expires [Config.TokenLifetime] after it, and 0
	// otherwise.
	AuthTime int64
}

// check rejects an identity that Verify would not return unchanged. For
// example, the JSON encoding replaces invalid UTF-8, which could turn one name
// into another.
func (id Identity) check() error {
	if id.Anonymous {
		if id != (Identity{Anonymous: true}) {
			return errors.New("an anonymous identity must not have other fields")
		}
		return nil
	}
	if id.Name == "" {
		return errors.New("the identity has no name")
	}
	for _, text := range []string{id.Name, id.Version, id.Directory} {
		if !record.IsText(text, maxText) {
			return fmt.Errorf("name, version or directory is longer than %d bytes, is not UTF-8, or contains control characters", maxText)
		}
	}
	if !record.IsText(id.Facts, maxFacts) {
		return fmt.Errorf("the facts are longer than %d bytes, are not UTF-8, or contain control characters", maxFacts)
	}
	return nil
}
