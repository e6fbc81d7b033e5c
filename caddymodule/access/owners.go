package access

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// OwnerID returns the account that a personal token stands for. The owner must
// not be nil.
func OwnerID(owner *accesstoken.Owner) ID { return ID{owner.Directory, owner.Name} }

// fingerprint identifies the accounts of a directory. It changes with the module
// and with the source of the directory.
func (d Named) fingerprint() string {
	source := ""
	if s, ok := d.Directory.(directory.Sourced); ok {
		source = s.Source()
	}
	sum := sha256.Sum256([]byte(d.kind() + "\x00" + source))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// byOwner returns the owner of a personal token as its directory knows it now.
func (a *Accounts) byOwner(ctx context.Context, owner accesstoken.Owner) (Caller, error) {
	d, err := a.ownerDirectory(owner)
	if err != nil {
		return Caller{Directory: owner.Directory}, err
	}
	return a.lookup(ctx, d, owner.Name, owner.Facts)
}

// ownerDirectory returns the directory of the owner of a personal token. Tokens
// of earlier versions name its module instead, with a number if the module was
// used before. That is unambiguous if the site has one directory of the module.
func (a *Accounts) ownerDirectory(owner accesstoken.Owner) (Named, error) {
	if owner.Source == "" {
		var same []Named
		for _, d := range a.directories {
			if d.kind() == owner.Directory {
				same = append(same, d)
			}
		}
		if len(same) != 1 {
			return Named{}, fmt.Errorf("%w: it was created before directories had names, and '%s' is not exactly one directory now; create a new token", directory.ErrUnknownAccount, owner.Directory)
		}
		return same[0], nil
	}
	d, ok := a.named(owner.Directory)
	switch {
	case !ok:
		return d, fmt.Errorf("%w: the directory %s no longer exists", directory.ErrUnknownAccount, owner.Directory)
	case d.fingerprint() != owner.Source:
		return d, fmt.Errorf("%w: the directory %s has another URL, issuer, base DN or users file than when the token was created", directory.ErrUnknownAccount, owner.Directory)
	}
	return d, nil
}

// reasonOf returns the text of an [directory.ErrUnknownAccount] without its
// prefix.
func reasonOf(err error) string {
	return strings.TrimPrefix(err.Error(), directory.ErrUnknownAccount.Error()+": ")
}
