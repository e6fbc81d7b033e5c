package static

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"golang.org/x/crypto/bcrypt"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
)

// ErrUnknownHash is the error for a hash whose prefix is of no known kind.
var ErrUnknownHash = errors.New("the password hash is neither bcrypt nor argon2id")

// comparerOr is Comparer with another one, unless it is nil, for unknown hashes.
func comparerOr(other caddyauth.Comparer, hash string) (caddyauth.Comparer, int, error) {
	c, maxLen, err := Comparer(hash)
	if errors.Is(err, ErrUnknownHash) && other != nil && hash != "" {
		return other, 0, nil
	}
	return c, maxLen, err
}

// Comparer returns a comparer for a hash, and the limit on the length of a password in
// bytes; 0 is no limit.
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

// The limits on the cost of a hash. A login that is compared with it holds one of few
// turns, and so does an unknown name now and then.
const (
	maxBcryptCost    = 16
	maxArgon2Memory  = 2 << 20 // in KiB
	maxArgon2Work    = 4 << 20 // KiB of memory times passes
	maxArgon2Threads = 64
)

// checkArgon2id rejects a hash that would end the process when it is compared, that
// takes too long, or whose key is so short that it was cut off, so that many passwords
// would match it. Its errors continue the words "the argon2id hash".
func checkArgon2id(hash string) error {
	_, key, err := caddyauth.DecodeHash([]byte(hash))
	var number *strconv.NumError
	switch {
	case errors.As(err, &number): // whose text quotes the hash
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
