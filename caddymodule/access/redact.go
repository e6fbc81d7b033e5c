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

const (
	// maxShownReason and maxShownName are the lengths at which texts are cut for
	// the log, in bytes.
	maxShownReason = 300
	maxShownName   = 64

	// minQuoted is the length of the shortest password that is searched for in
	// texts, in bytes. A shorter one occurs in them by chance.
	minQuoted = 4

	// minGenerated is the length of the shortest name that looks like a
	// generated secret, in bytes.
	minGenerated = 20
)

// RefusalReason returns the reason of a refusal for the audit log, without the
// name of the directory, which the line has in another field. If the text quotes
// the password or token that was refused, a general reason replaces it.
func RefusalReason(err error, directoryName, secret string) string {
	reason := strings.TrimPrefix(err.Error(), "directory "+directoryName+": ")
	if !quotes(reason, secret) {
		return printable(reason, maxShownReason)
	}
	for _, general := range []error{directory.ErrBlocked, directory.ErrWrongPassword, directory.ErrUnknownAccount} {
		if errors.Is(err, general) {
			return general.Error()
		}
	}
	return "refused"
}

// ErrorText returns the text of an error of a directory for the log. A text that
// quotes the password, as one of a third-party directory may, is replaced.
func ErrorText(err error, secret string) string {
	text := err.Error()
	if quotes(text, secret) {
		return "an error that quotes the password"
	}
	return text
}

// quotes reports whether a text contains a secret.
func quotes(text, secret string) bool {
	return len(secret) >= minQuoted && strings.Contains(text, secret)
}

// ShownName returns the name of a refused login for the log. Users sometimes
// paste a token into the user name field, so a name that looks generated, or
// contains the password or an access token, is redacted unless it is that of a
// configured account.
func (a *Accounts) ShownName(name, password string) string {
	if a.isLocalName(name) {
		return name
	}
	if looksGenerated(name) || strings.Contains(name, accesstoken.Prefix) || password != "" && strings.Contains(name, password) {
		return "(" + strconv.Itoa(len(name)) + " bytes that may be a secret)"
	}
	return printable(name, maxShownName)
}

// printable cuts a text to a number of bytes and replaces control characters,
// which a terminal would interpret.
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

// looksGenerated reports whether a text looks like a generated secret, such as an
// access token or a JSON Web Token, as opposed to one that a person has chosen:
// it is long, consists of the characters of such secrets, and has letters and
// digits or letters of both cases.
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
