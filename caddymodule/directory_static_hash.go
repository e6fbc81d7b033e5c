package caddymodule

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"golang.org/x/crypto/bcrypt"
)

// errUnknownHash is about a hash that nothing in front tells the kind of.
var errUnknownHash = errors.New("the password hash is neither bcrypt nor argon2id")

// comparerOr is comparer with one for the hashes that it does not know, if any.
func comparerOr(other caddyauth.Comparer, hash string) (caddyauth.Comparer, int, error) {
	c, maxLen, err := comparer(hash)
	if errors.Is(err, errUnknownHash) && other != nil && hash != "" {
		return other, 0, nil
	}
	return c, maxLen, err
}

// comparer returns what compares a password with a hash, and how many bytes of
// password it takes at most, 0 being any number.
func comparer(hash string) (caddyauth.Comparer, int, error) {
	switch {
	case strings.HasPrefix(hash, "$argon2id$"):
		if err := checkArgon2id(hash); err != nil {
			return nil, 0, fmt.Errorf("the argon2id hash is damaged: %w", err)
		}
		return caddyauth.Argon2idHash{}, 0, nil
	case strings.HasPrefix(hash, "$2"):
		if _, err := bcrypt.Cost([]byte(hash)); err != nil || len(hash) != 60 {
			return nil, 0, errors.New("the bcrypt hash is damaged")
		}
		return caddyauth.BcryptHash{}, bcryptLen, nil
	}
	return nil, 0, errUnknownHash
}

// checkArgon2id refuses what would end the process when it is compared, and a
// key so short that it was cut off, which many passwords would match.
func checkArgon2id(hash string) error {
	_, key, err := caddyauth.DecodeHash([]byte(hash))
	var number *strconv.NumError
	switch {
	case errors.As(err, &number): // which shows what it is about
		return errors.New("a parameter is not a number")
	case err != nil:
		return err
	}
	var memory, passes, threads uint32
	if _, err := fmt.Sscanf(strings.Split(hash, "$")[3], "m=%d,t=%d,p=%d", &memory, &passes, &threads); err != nil {
		return errors.New("invalid parameters")
	}
	const gibibyte = 1 << 20 // in the unit of the hash
	switch {
	case passes == 0 || threads == 0:
		return errors.New("a parameter is zero")
	case memory > 4*gibibyte:
		return errors.New("it takes more than 4 GiB of memory")
	case len(key) < 16:
		return errors.New("it is cut off")
	}
	return nil
}
