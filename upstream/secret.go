package upstream

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Secret is a string that does not print itself: fmt with any verb and
// encoding/json show stars. Convert to string where it is used.
type Secret string

const stars = "*****"

// Format implements [fmt.Formatter], for every verb and flag.
func (s Secret) Format(f fmt.State, _ rune) {
	if s != "" {
		_, _ = f.Write([]byte(stars))
	}
}

// MarshalText implements [encoding.TextMarshaler], for JSON and its kin.
func (s Secret) MarshalText() ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	return []byte(stars), nil
}

// basicHeader returns the Authorization value for a login (RFC 7617), or ""
// for none.
func basicHeader(username string, password Secret) (string, error) {
	switch {
	case username == "" && password == "":
		return "", nil
	case username == "" || password == "":
		return "", errors.New("credentials need both a user name and a password")
	case strings.Contains(username, ":"):
		return "", errors.New("a user name cannot contain a colon")
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(username+":"+string(password))), nil
}
