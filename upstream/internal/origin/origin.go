// Package origin compares the origins of URLs (RFC 6454, section 4). Credentials for one
// origin must not be sent to another.
package origin

import (
	"net"
	"net/url"
	"strings"
)

// Of returns the scheme, host and port of u in a form that is the same for equal origins.
func Of(u *url.URL) string {
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), Port(u))
}

// Same reports whether a and b have the same scheme, host and port.
func Same(a, b *url.URL) bool { return Of(a) == Of(b) }

// Port returns the port of u, or the default port of its scheme.
func Port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}
