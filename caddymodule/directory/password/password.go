// Package password limits and shares the work of comparing passwords with hashes, for
// the directories static and authentication.
//
// CI jobs log in with the same password all day, and a hash takes up to a second of a
// core. So [Once] remembers for the life of the process which passwords have matched,
// as keyed digests of hash and password, shares one comparison between equal logins,
// and never uses all cores, which pulls need. Wrong passwords are not remembered here.
// [InTurn] waits for a turn in the [Queue] of the process, in which logins from known
// addresses go first.
package password

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// BcryptLen is the number of bytes of a password that bcrypt reads. A longer password
// is refused: cut off, it would match for everybody who knows its beginning.
const BcryptLen = 72

var (
	digestKey = func() []byte { key := make([]byte, 32); _, _ = rand.Read(key); return key }()
	matches   = func() *lru.Cache[string, struct{}] {
		cache, err := lru.New[string, struct{}](4096)
		if err != nil {
			panic(err) // the size is a positive constant
		}
		return cache
	}()
	flights singleflight.Group
)

// Once reports whether the password of a login matches a hash, as compare says. It
// does not call compare if the password is known to match. Equal logins at the same
// time share one turn. It waits no longer than its context and [Patience]; the error is
// [ErrBusy] if there is no turn.
func Once(ctx context.Context, login directory.Login, hash string, compare func() (bool, error)) (bool, error) {
	key := Digest(hash, login.Password)
	if _, ok := matches.Get(key); ok {
		return true, nil
	}
	return InTurn(ctx, login, key, func() (bool, error) {
		ok, err := compare()
		if ok && err == nil {
			matches.Add(key, struct{}{})
		}
		return ok && err == nil, err
	})
}

// Digest returns a digest of texts, keyed with a secret of this process.
func Digest(texts ...string) string {
	mac := hmac.New(sha256.New, digestKey)
	for _, text := range texts {
		_ = binary.Write(mac, binary.BigEndian, uint64(len(text)))
		mac.Write([]byte(text))
	}
	return string(mac.Sum(nil))
}

// InTurn calls compare when the login has a turn. Logins with the same key share it.
func InTurn(ctx context.Context, login directory.Login, key string, compare func() (bool, error)) (bool, error) {
	flight := flights.DoChan(key, func() (ok any, err error) {
		leave, err := DefaultQueue.Enter(ctx, login.Friendly)
		if err != nil {
			return false, err
		}
		defer leave()
		// Here, a panic of a guest module would end the process.
		defer func() {
			if cause := recover(); cause != nil {
				ok, err = false, fmt.Errorf("comparing a password: panic: %v", cause)
			}
		}()
		return compare()
	})
	select {
	case result := <-flight:
		return result.Val.(bool), result.Err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
