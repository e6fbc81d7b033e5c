package static

import (
	"errors"
	"fmt"
	"strings"
)

// Check reports what is wrong with the name or the hash of a user. A hash of an
// unknown kind is an [ErrUnknownHash].
func (u *User) Check() error {
	if err := u.checkName(); err != nil {
		return err
	}
	if _, _, err := Comparer(u.Hash); err != nil {
		return u.badHash(err)
	}
	return nil
}

func (u *User) checkName() error {
	if u == nil {
		return errors.New("a user is null")
	}
	if u.Name == "" || strings.ContainsAny(u.Name, ": \t\r\n") {
		return errors.New("the name of a user must not be empty or contain a colon or white space")
	}
	return nil
}

func (u *User) badHash(err error) error {
	return fmt.Errorf("user %s: %w; write what `caddy hash-password` prints", u.Name, err)
}

func userName(u *User) string { return u.Name }
