package access

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// OwnerID returns the account that a personal token stands for.
func OwnerID(owner *accesstoken.Owner) ID { return ID{owner.Directory, owner.Name} }

// fingerprint is another one when the directory's accounts are others': of another
// module, or from another source.
func (d Named) fingerprint() string {
	source := ""
	if s, ok := d.Directory.(directory.Sourced); ok {
		source = s.Source()
	}
	sum := sha256.Sum256([]byte(d.kind() + "\x00" + source))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// byOwner returns the owner of a personal token as the owner's directory has it.
func (a *Accounts) byOwner(ctx context.Context, owner accesstoken.Owner) (Caller, error) {
	d, err := a.ownerDirectory(owner)
	if err != nil {
		return Caller{Directory: owner.Directory}, err
	}
	return a.lookupIn(ctx, d, owner.Name, owner.Facts)
}

// ownerDirectory finds the directory that the owner of a personal token is of.
// Tokens of earlier versions say of which module it was, with a number from the
// second one of a module on: that is enough where there is one.
func (a *Accounts) ownerDirectory(owner accesstoken.Owner) (Named, error) {
	if owner.Source == "" {
		var same []Named
		for _, d := range a.directories {
			if d.kind() == owner.Directory {
				same = append(same, d)
			}
		}
		if len(same) != 1 {
			return Named{}, fmt.Errorf("%w: it was made before directories had names, and which one '%s' was cannot be told; make a new one", directory.ErrUnknownAccount, owner.Directory)
		}
		return same[0], nil
	}
	d, ok := a.named(owner.Directory)
	switch {
	case !ok:
		return d, fmt.Errorf("%w: no directory is called %s any more", directory.ErrUnknownAccount, owner.Directory)
	case d.fingerprint() != owner.Source:
		return d, fmt.Errorf("%w: the directory %s has another URL, issuer, base DN or users file than when it was made", directory.ErrUnknownAccount, owner.Directory)
	}
	return d, nil
}

// ended returns why a token that is neither revoked nor expired is not valid any more,
// or "" if it is valid as far as that is known without asking a directory. The others
// are the tokens that it may have been made with.
func (a *Accounts) ended(token accesstoken.Token, others map[string]accesstoken.Token) string {
	if token.Owner != nil {
		if _, err := a.ownerDirectory(*token.Owner); err != nil {
			return reasonOf(err)
		}
	}
	for maker, n := token.MadeWith, 0; maker != ""; n++ {
		with, ok := others[maker]
		why := ""
		switch err := with.Valid(time.Now()); {
		case !ok:
			why = "which does not exist any more"
		case n == maxMakers:
			why = "after too many others"
		case err != nil:
			why = err.Error()
		case with.Owner != nil:
			if _, err := a.ownerDirectory(*with.Owner); err != nil {
				why = reasonOf(err)
			}
		}
		if why != "" {
			return fmt.Sprintf("it was made with %s: %s", maker, why)
		}
		maker = with.MadeWith
	}
	return ""
}

// reasonOf returns why an account is unknown.
func reasonOf(err error) string {
	return strings.TrimPrefix(err.Error(), directory.ErrUnknownAccount.Error()+": ")
}

// MadeWith returns the tokens that a token has been made into, directly or by way
// of others, and that are neither revoked nor expired themselves.
func madeWith(id string, all []accesstoken.Token) (made []accesstoken.Token) {
	makers := []string{id}
	for range maxMakers {
		var next []string
		for _, t := range all {
			if !slices.Contains(makers, t.MadeWith) {
				continue
			}
			next = append(next, t.ID)
			if t.Valid(time.Now()) == nil {
				made = append(made, t)
			}
		}
		makers = next
	}
	return made
}

func tokensByID(all []accesstoken.Token) map[string]accesstoken.Token {
	byID := make(map[string]accesstoken.Token, len(all))
	for _, t := range all {
		byID[t.ID] = t
	}
	return byID
}
