package access

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// maxShownReason is how much of a reason is logged, in bytes.
const maxShownReason = 300

// RefusalReason says why a login or a token was refused, as the directory that
// the line names puts it. Directories do not tell secrets; that none quotes what
// it was given as the password is seen to.
func RefusalReason(err error, in, secret string) string {
	reason := strings.TrimPrefix(err.Error(), "directory "+in+": ")
	if len(secret) >= 4 && strings.Contains(reason, secret) {
		for _, plain := range []error{directory.ErrBlocked, directory.ErrWrongPassword, directory.ErrUnknownAccount} {
			if errors.Is(err, plain) {
				return plain.Error()
			}
		}
		return "refused"
	}
	return printable(reason, maxShownReason)
}

// TroubleText is an error of a directory for the log. Guests that were not written
// for this directive may quote what they were given as the password.
func TroubleText(trouble error, secret string) string {
	if text := trouble.Error(); len(secret) < 4 || !strings.Contains(text, secret) {
		return text
	}
	return "an error that quotes the password"
}

// maxShown is how much of a name that a stranger gives is logged, in bytes.
const maxShown = 64

// ShownName is the name of a refused login as it is logged. People paste their
// secret where the name belongs, so what looks like one and is no account of
// the configuration is not shown, and neither is what is as well the password.
func (a *Accounts) ShownName(name, password string) string {
	if a.lists(name) {
		return name
	}
	if looksGenerated(name) || strings.Contains(name, accesstoken.Prefix) || password != "" && strings.Contains(name, password) {
		return "(" + strconv.Itoa(len(name)) + " bytes that may be a secret)"
	}
	return printable(name, maxShown)
}

// printable cuts a text to so many bytes and takes what a terminal would obey
// out of it.
func printable(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, text)
	if len(text) <= limit {
		return text
	}
	for !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + "..."
}

// minGenerated is how long a generated secret is at least, in bytes.
const minGenerated = 20

// looksGenerated tells secrets that a machine has made, such as access tokens
// and JSON Web Tokens, from what people choose: long, without a space, and with
// digits or both cases among letters of the alphabets that are used for it.
func looksGenerated(text string) bool {
	if len(text) < minGenerated {
		return false
	}
	var lower, upper, digit bool
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z':
			lower = true
		case 'A' <= c && c <= 'Z':
			upper = true
		case '0' <= c && c <= '9':
			digit = true
		case !strings.ContainsRune("-_.~+/=:", rune(c)):
			return false
		}
	}
	return (lower || upper) && digit || lower && upper
}
