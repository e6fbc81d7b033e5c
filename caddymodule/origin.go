package caddymodule

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// service is what the token service calls this registry.
const service = "dependency_proxy"

// origin is where the client believes it is, or what the configuration says.
type origin struct {
	scheme, host string
	realm        string // of the token service
	registry     string // the host that the client asks, for messages
}

// issuer is the iss claim of tokens: a token is good where it was issued.
func (o origin) issuer() string { return o.scheme + "://" + o.host }

// locate finds out where the client believes it is. A request with several
// Authorization headers is refused: a proxy in front and this handler could
// otherwise each believe another one.
func (ex *exchange) locate() (err *apiError) {
	if len(ex.r.Header.Values("Authorization")) > 1 {
		return refuse(badRequest, "the request has several Authorization headers; send one")
	}
	ex.origin, err = ex.h.findOrigin(ex.r)
	return err
}

// findOrigin takes the scheme and host from the request, or from the headers
// of a proxy in front that Caddy trusts. What it returns goes into a challenge
// that clients send their password to, so it is checked to be no more than a
// host and a port.
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
		o.scheme, o.host, o.realm = h.realm.Scheme, h.realm.Host, h.Realm
		return o, nil
	}
	if !validAuthority(o.host) {
		return o, refuse(badRequest, "the Host header is not a host and port")
	}
	o.realm = o.scheme + "://" + o.host + "/jwt/auth"
	return o, nil
}

// forwarded takes the last of several values: it is the one that the proxy next
// to us has added, while those before it may be the client's own.
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

// warnOfProxy tells, once for a configuration, that a proxy in front may let
// clients choose their address. Most proxies append the client's address to what
// X-Forwarded-For says already, of which Caddy takes the first one by default. It
// is not known before a request comes, since handlers do not see their server.
func (ex *exchange) warnOfProxy() {
	if trusted, _ := caddyhttp.GetVar(ex.r.Context(), caddyhttp.TrustedProxyVarKey).(bool); !trusted {
		return
	}
	server, ok := ex.r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.TrustedProxiesStrict > 0 {
		return
	}
	ex.h.proxyWarning.Do(func() {
		ex.h.logger.Warn("clients behind the trusted proxy may choose the address that wrong logins are counted by; write trusted_proxies_strict beside trusted_proxies in the server options")
	})
}

// validAuthority accepts a DNS name or an IP address, and a port if there is
// one (RFC 3986, section 3.2, without user information).
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

// challenge refuses with the whole of what a client needs to get a token (RFC
// 6750, section 3), on every path, since many clients do not ping first. The
// code is empty unless a token was shown: clients take it for final.
func (ex *exchange) challenge(code, format string, args ...any) *apiError {
	c := fmt.Sprintf("Bearer realm=%q,service=%q", ex.origin.realm, service)
	if ex.route.image != "" {
		c += fmt.Sprintf(",scope=%q", "repository:"+ex.route.name()+":pull")
	}
	if code != "" {
		c += fmt.Sprintf(",error=%q", code)
	}
	ex.w.Header()["Www-Authenticate"] = []string{c}
	return refuse(unauthorized, format, args...)
}

// basicChallenge asks for a user name and a password, where no token helps: a 401
// has to have a challenge (RFC 9110, section 15.5.2).
func (ex *exchange) basicChallenge() {
	ex.w.Header()["Www-Authenticate"] = []string{`Basic realm="dependency proxy", charset="UTF-8"`}
}
