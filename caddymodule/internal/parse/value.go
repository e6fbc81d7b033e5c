package parse

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// URL parses an absolute URL with one of the schemes. It reports false for any
// other text, and for a URL with a user, a query or a fragment. Errors about it
// should not show it, since it may hold a password by mistake.
func URL(text string, schemes ...string) (*url.URL, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || !slices.Contains(schemes, u.Scheme) ||
		u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, false
	}
	return u, true
}

// IsPlaceholder reports whether a value is a placeholder, as secrets must be: the
// admin API shows the configuration.
func IsPlaceholder(value string) bool {
	return strings.HasPrefix(value, "{") && strings.HasSuffix(value, "}")
}

// Secret returns the value of a placeholder, which must not be empty.
func Secret(what, placeholder string) (string, error) {
	value, err := caddy.NewReplacer().ReplaceOrErr(placeholder, true, true)
	if err != nil || strings.TrimSpace(value) == "" {
		return "", fmt.Errorf("the %s placeholder %s is empty, or its file cannot be read", what, placeholder)
	}
	return value, nil
}
