package caddymodule

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
)

// Neither the time nor the text of the answer to a login that fails tells which
// names there are. Within a directory that is its own task. Between directories
// it is done here: all that an unknown name is asked of is asked about every
// login that fails, and one password is hashed for it, no more and no less.

// asNobody is the login under a name that nobody has, always the same for the
// same name: to what remembers names it is as well known as any other stranger.
func (l Login) asNobody() Login {
	mac := hmac.New(sha256.New, loginKey)
	_, _ = io.WriteString(mac, "name of nobody\x00"+l.Name)
	l.Name = "nobody-" + hex.EncodeToString(mac.Sum(nil)[:16])
	return l
}

// unsaid is a refusal that the client is not told, since to an unknown name the
// answer would be the trouble.
type unsaid struct{ refusal, trouble error }

func (e *unsaid) Error() string { return e.refusal.Error() }
func (e *unsaid) Unwrap() error { return e.refusal }

// evenOut takes the time that a login has not taken yet and that an unknown name
// takes, once the search for its account has failed at a directory, or behind
// the last one. It returns the error to go on with, which may be an [unsaid].
//
// The directories after that one are asked about nobody. Whatever they say, it
// lets nobody in; but if one cannot tell, an unknown name could not be told
// wrong either.
func (a *accounts) evenOut(ctx context.Context, login Login, at int, failure error) error {
	known := at < len(a.directories)
	hashed := known && a.directories[at].static() != nil
	trouble := worse(nil, failure)
	nobody := login.asNobody()
	for said := failure; at < len(a.directories) && a.directories[at].goesOn(said); {
		if at++; at < len(a.directories) {
			d := a.directories[at]
			if _, said = d.Authenticate(ctx, nobody); said != nil {
				said = fmt.Errorf("directory %s: %w", d.name, said)
			}
			trouble = worse(trouble, said)
		}
	}
	if decoy := decoyFor(login.Name, a.directories[:at]); decoy != nil && !hashed {
		_, err := decoy.matches(ctx, login)
		trouble = worse(trouble, err)
	}
	switch {
	case trouble == nil:
		return failure
	case known && isRefusal(failure):
		return &unsaid{failure, trouble}
	}
	return trouble
}

// goesOn tells whether the directories after this one are asked too, when it
// has said this of a login.
func (d namedDirectory) goesOn(said error) bool {
	if _, ok := d.Directory.(secretDirectory); ok {
		return errors.Is(said, ErrUnknownAccount)
	}
	return isRefusal(said) || errors.Is(said, errBusy)
}

// static is the directory if it is a static one, else nil.
func (d namedDirectory) static() *StaticDirectory {
	static, _ := d.Directory.(*StaticDirectory)
	return static
}

// worse is what of the two a client is told: that it cannot be checked who it
// is, rather than that too many want to know. A refusal is neither.
func worse(a, b error) error {
	if b == nil || isRefusal(b) || a != nil && !errors.Is(a, errBusy) {
		return a
	}
	return b
}

var decoySeed = maphash.MakeSeed()

// decoyFor is the account of some directories that a login is compared with for
// the time it takes, nil if there is none. It is one of all, always the same for
// the same name. So where some hashes take longer than others, names that do not
// exist differ just as those that do, and time tells nothing about any of them.
func decoyFor(name string, directories []namedDirectory) *StaticUser {
	var lists [][]*StaticUser
	count := 0
	for _, d := range directories {
		if static := d.static(); static != nil {
			list := static.accounts.Load().list
			lists, count = append(lists, list), count+len(list)
		}
	}
	if count == 0 {
		return nil
	}
	at := int(maphash.String(decoySeed, name) % uint64(count))
	for _, list := range lists {
		if at < len(list) {
			return list[at]
		}
		at -= len(list)
	}
	return nil // not reached
}
