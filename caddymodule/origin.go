package caddymodule

import (
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// origin is the address under which a client reaches the site.
type origin struct {
	scheme, host string // those of the configured realm, if any
	issuer       string // scheme://host, the iss claim of tokens, which are valid only where they were issued
	registry     string // the host that the client sends its request to
}

// locate sets the origin. It rejects a request with several Authorization headers,
// because a proxy in front could use another one than this handler.
func (ex *exchange) locate() (err *apiError) {
	if len(ex.r.Header.Values("Authorization")) > 1 {
		return refuse(badRequest, "the request has several Authorization headers; send one")
	}
	ex.origin, err = ex.handler.findOrigin(ex.r)
	return err
}

// findOrigin takes scheme and host from the request, or from the headers of a proxy
// that Caddy trusts. Clients send their password to the realm at this address, so
// the host must be a plain host and port.
func (h *Handler) findOrigin(r *http.Request) (origin, *apiError) {
	o := origin{scheme: "http", host: strings.ToLower(r.Host)}
	if r.TLS != nil {
		o.scheme = "https"
	}
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); trusted {
		o.forwarded(r.Header)
	}
	o.registry = o.host
	if h.realm != nil {
		o.scheme, o.host = h.realm.Scheme, h.realm.Host
	} else if !validAuthority(o.host) {
		return o, refuse(badRequest, "invalid Host header; use a host name or an IP address, and optionally a port")
	}
	o.issuer = o.scheme + "://" + o.host
	return o, nil
}

// forwarded uses the last of several values, which the nearest proxy has added. The
// client may have chosen those before it.
func (o *origin) forwarded(h http.Header) {
	last := func(name string) string {
		values := h.Values(name)
		if len(values) == 0 {
			return ""
		}
		value := values[len(values)-1]
		return strings.ToLower(strings.TrimSpace(value[strings.LastIndexByte(value, ',')+1:]))
	}
	if scheme := last("X-Forwarded-Proto"); scheme == "http" || scheme == "https" {
		o.scheme = scheme
	}
	if host := last("X-Forwarded-Host"); host != "" {
		o.host = host
	}
}

// warnTrustedProxy logs, once for a configuration, that clients behind a trusted
// proxy may forge their address. Most proxies append the client's address to
// X-Forwarded-For, of which Caddy uses the first address by default. The handler
// learns the settings of its server only from a request.
func (ex *exchange) warnTrustedProxy() {
	if trusted, _ := caddyhttp.GetVar(ex.r.Context(), caddyhttp.TrustedProxyVarKey).(bool); !trusted {
		return
	}
	server, ok := ex.r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.TrustedProxiesStrict > 0 {
		return
	}
	ex.handler.proxyWarning.Do(func() {
		ex.handler.logger.Warn("clients behind the trusted proxy may forge the address that failed logins are counted by; write trusted_proxies_strict beside trusted_proxies in the server options")
	})
}

// validAuthority reports whether a string is a DNS name or an IP address with an
// optional port (RFC 3986, section 3.2, without user information).
func validAuthority(authority string) bool {
	host := authority
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") {
		port, err := strconv.ParseUint(authority[i+1:], 10, 16)
		if err != nil || port == 0 {
			return false
		}
		host = authority[:i]
	}
	if ip, ok := strings.CutPrefix(host, "["); ok {
		ip, ok = strings.CutSuffix(ip, "]")
		return ok && strings.Contains(ip, ":") && net.ParseIP(ip) != nil
	}
	if host == "" || len(host) > 253 {
		return false
	}
	for i := range len(host) {
		c := host[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}
