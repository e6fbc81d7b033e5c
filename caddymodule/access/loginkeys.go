package access

import (
	"encoding/base64"
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// maxFolded is how long a name may be to be folded, in bytes. Longer ones belong to no
// account.
const maxFolded = 1 << 10

// looseName returns the same for all ways to write a name that some directory takes for
// one account: in whatever case, with whatever white space, marks, and compatible
// forms of its letters (NFKC). Other names may share it; use it for limits, never
// to tell who somebody is.
func looseName(name string) string {
	if len(name) > maxFolded {
		return name
	}
	name = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Mn, unicode.Cf) || r == '\u1806' || r == '\ufffc' {
			return -1 // LDAP servers pass over some of these (RFC 4518, section 2.2)
		}
		return r
	}, norm.NFKD.String(name))
	return strings.Join(strings.Fields(norm.NFKC.String(cases.Fold().String(name))), " ")
}

// tokenPrefixes begin the secrets of known token services.
var tokenPrefixes = []string{
	accesstoken.Prefix,
	"glpat-", "gldt-", "glcbt-", "glrt-", "glptt-", "glft-", "glsoat-", "gloas-", // GitLab
	"ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", // GitHub
	"dckr_pat_", "dckr_oat_", // Docker Hub
}

// isToken reports whether a password has the shape of a token, which a machine has
// made and nobody guesses: the prefix of a known service, or of a GitLab directory
// here; a JSON Web Token; or what a CI job sends under GitLab's name for it.
func (a *Accounts) isToken(name, password string) bool {
	if !directory.HasTokenForm(password) {
		return isJWT(password)
	}
	for _, prefix := range tokenPrefixes {
		if strings.HasPrefix(password, prefix) {
			return true
		}
	}
	for _, d := range a.directories {
		if tokens, ok := d.Directory.(directory.TokenDirectory); ok && tokens.IsToken(name, password) {
			return true
		}
	}
	return isJWT(password)
}

// isJWT reports whether a text has the form of a signed JSON Web Token.
func isJWT(text string) bool {
	parts := strings.Split(text, ".")
	if len(text) < 20 || len(parts) != 3 || !strings.HasPrefix(text, "eyJ") { // {" in base64
		return false
	}
	for _, part := range parts {
		if _, err := base64.RawURLEncoding.DecodeString(part); err != nil || part == "" {
			return false
		}
	}
	return true
}
