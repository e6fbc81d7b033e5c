package access

import (
	"encoding/base64"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// tokenPrefixes are the prefixes of tokens of known services.
var tokenPrefixes = []string{
	accesstoken.Prefix,
	"glpat-", "gldt-", "glcbt-", "glrt-", "glptt-", "glft-", "glsoat-", "gloas-", // GitLab
	"ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", // GitHub
	"dckr_pat_", "dckr_oat_", // Docker Hub
}

// isToken reports whether a password has the form of a generated token, which
// cannot be guessed: it has a prefix of a known service, is a JSON Web Token, or
// is recognized by a directory from its form and the user name.
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
