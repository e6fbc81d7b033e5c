package static

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"golang.org/x/crypto/bcrypt"
) // ErrUnknownHash is about a hash that nothing in front tells the kind of.
var ErrUnknownHash = errors.New("the password hash is neither bcrypt nor argon2id")

// comparerOr is comparer with one for the hashes that it does not know, if any.
func comparerOr(other caddyauth.Comparer, hash string) (caddyauth.Comparer, int, error) {
	c, maxLen, err := Comparer(hash)
	if errors.Is(err, ErrUnknownHash) && other != nil && hash != "" {
		return other, 0, nil
	}
	return c, maxLen, err
}

// Comparer returns what compares a password with a hash, and how many bytes of
// password it takes at most, 0 being any number.
func Comparer(hash string) (caddyauth.Comparer, int, error) {
	switch {
	case strings.HasPrefix(hash, "$argon2id$"):
		if err := checkArgon2id(hash); err != nil {
			return nil, 0, fmt.Errorf("the argon2id hash %w", err)
		}
		return caddyauth.Argon2idHash{}, 0, nil
	case strings.HasPrefix(hash, "$2"):
		cost, err := bcrypt.Cost([]byte(hash))
		if err != nil || len(hash) != 60 {
			return nil, 0, errors.New("the bcrypt hash is damaged")
		}
		if cost > maxBcryptCost {
			return nil, 0, fmt.Errorf("the bcrypt hash has cost %d, which takes too long; %d is the most, use --bcrypt-cost 12", cost, maxBcryptCost)
		}
		return caddyauth.BcryptHash{}, password.BcryptLen, nil
	}
	return nil, 0, ErrUnknownHash
}

// What a hash may cost. A login that is compared with it holds one of the few
// turns, and so does an unknown name now and then.
const (
	maxBcryptCost    = 16
	maxArgon2Memory  = 2 << 20 // in KiB
	maxArgon2Work    = 4 << 20 // KiB of memory times passes
	maxArgon2Threads = 64
)

// checkArgon2id refuses what would end the process when it is compared, what
// takes too long, and a key so short that it was cut off, which many passwords
// would match. Its errors go on after "the argon2id hash".
func checkArgon2id(hash string) error {
	_, key, err := caddyauth.DecodeHash([]byte(hash))
	var number *strconv.NumError
	switch {
	case errors.As(err, &number): // which shows what it is about
		return errors.New("is damaged: a parameter is not a number")
	case err != nil:
		return fmt.Errorf("is damaged: %w", err)
	}
	var memory, passes, threads uint32
	if _, err := fmt.Sscanf(strings.Split(hash, "$")[3], "m=%d,t=%d,p=%d", &memory, &passes, &threads); err != nil {
		return errors.New("is damaged: invalid parameters")
	}
	switch {
	case passes == 0 || threads == 0:
		return errors.New("is damaged: a parameter is zero")
	case len(key) < 16:
		return errors.New("is damaged: it is cut off")
	case memory > maxArgon2Memory:
		return errors.New("takes more than 2 GiB of memory; use --argon2id-memory 65536")
	case uint64(memory)*uint64(passes) > maxArgon2Work:
		return errors.New("has memory times passes of more than 4 GiB, which takes too long; use --argon2id-memory 65536 --argon2id-time 3")
	case threads > maxArgon2Threads:
		return errors.New("takes more than 64 threads; use --argon2id-threads 4")
	}
	return nil
}

// matches compares a password with the hash.
func (u *User) matches(ctx context.Context, login directory.Login) (bool, error) {
	return password.Once(ctx, login, u.Hash, func() (bool, error) { return u.compare(login.Password) })
}

// feign makes the login of an unknown name wait for the turn in the queue that it would
// take if this account had the name. As with a wrong password, no result is remembered
// beforehand, and only an equal login shares the turn: otherwise an unknown name would
// be refused sooner than others.
func (u *User) feign(ctx context.Context, login directory.Login) error {
	key := password.Digest("nobody", login.Name, u.Hash, login.Password)
	_, err := password.InTurn(ctx, login, key, func() (bool, error) { return u.compare(login.Password) })
	return err
}

// compare takes its time also for a password that is too long to be right.
func (u *User) compare(password string) (bool, error) {
	tooLong := u.maxLen > 0 && len(password) > u.maxLen
	if tooLong {
		password = password[:u.maxLen]
	}
	ok, err := u.comparer.Compare([]byte(u.Hash), []byte(password))
	return ok && !tooLong, err
}
