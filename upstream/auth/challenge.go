package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/internal/origin"
)

// Challenge is a Basic or Bearer challenge that the client can answer. The zero value is
// a Basic one.
type Challenge struct {
	// Realm is the address of the token service, or nil for a Basic challenge.
	Realm *url.URL

	// Service is what the token service calls the registry.
	Service string

	// Repository is that of the scope, or "" if the scope is not for pulling a
	// repository. Each response may have another one.
	Repository string
}

// IsBearer reports whether a bearer token answers the challenge, as opposed to a login.
func (c *Challenge) IsBearer() bool { return c.Realm != nil }

// SameToken reports whether two challenges ask for the same token.
func (c *Challenge) SameToken(other *Challenge) bool {
	return c.IsBearer() && other.IsBearer() && c.Service == other.Service && c.Realm.String() == other.Realm.String()
}

// ErrUnsupported means that a response has neither a Bearer nor a Basic challenge.
var ErrUnsupported = errors.New("no supported challenge")

// A WithheldError means that the login must not be sent to the token service of a
// challenge. Its text says how to permit it.
type WithheldError struct{ text string }

// Error returns the text of the error.
func (e *WithheldError) Error() string { return e.text }

// Realms decides which token services a registry may refer to.
type Realms struct {
	// Registry is the address of the registry. It may refer to token services on plain
	// http only if it uses that itself.
	Registry *url.URL

	// HasLogin is set if token requests carry a login. It may be sent to the origin of
	// the registry and, over https, to its registrable domain and the Hosts.
	HasLogin bool

	// Hosts lists other hosts that may receive the login, as HOST or HOST:PORT.
	Hosts []string
}

// Select returns the first valid Bearer challenge, or a Basic one if there is none. The
// error is a [*WithheldError], [ErrUnsupported], or says why the challenge is invalid.
func (r *Realms) Select(challenges []header.Challenge) (*Challenge, error) {
	basic := false
	var invalid error
	for _, ch := range challenges {
		switch ch.Scheme {
		case "basic":
			basic = true
		case "bearer":
			realm, err := parseRealm(ch.Params["realm"])
			if err != nil {
				invalid = err
				continue
			}
			if err := r.check(realm); err != nil {
				return nil, err
			}
			return &Challenge{Realm: realm, Service: ch.Params["service"], Repository: header.PullScope(ch.Params["scope"])}, nil
		}
	}
	switch {
	case basic:
		return new(Challenge), nil
	case invalid != nil:
		return nil, invalid
	}
	return nil, ErrUnsupported
}

// SelectForeign returns the first challenge that an anonymous token answers, or nil. The
// challenges are those of another registry, to which a redirect has led. The repository
// is that of the scope or, without one, that in the path of target, the address that has
// sent the challenges: it is followed there by path.
func SelectForeign(challenges []header.Challenge, target *url.URL, path string) *Challenge {
	for _, ch := range challenges {
		realm, err := parseRealm(ch.Params["realm"])
		if ch.Scheme != "bearer" || err != nil || target.Scheme == "https" && realm.Scheme == "http" {
			continue
		}
		repository := header.PullScope(ch.Params["scope"])
		if repository == "" {
			repository = repositoryOf(target.Path, path)
		}
		if repository != "" {
			return &Challenge{Realm: realm, Service: ch.Params["service"], Repository: repository}
		}
	}
	return nil
}

// repositoryOf returns the repository between "/v2/" and "/" + end in the path of a
// request, or "" if that is not the path of a registry.
func repositoryOf(path, end string) string {
	_, path, _ = strings.Cut(path, "/v2/")
	repository, ok := strings.CutSuffix(path, "/"+end)
	if !ok {
		return ""
	}
	return header.PullScope("repository:" + repository + ":pull")
}

// parseRealm parses the address of a token service. It requires an absolute URL,
// because clients disagree about the meaning of any other.
func parseRealm(text string) (*url.URL, error) {
	realm, err := url.Parse(text)
	if err != nil || realm.Host == "" || realm.User != nil || (realm.Scheme != "http" && realm.Scheme != "https") {
		return nil, errors.New("the realm of the challenge is not an absolute http or https URL")
	}
	realm.Fragment, realm.RawFragment = "", ""
	return realm, nil
}

// check returns an error if the token service at realm must not be asked. An https
// registry cannot refer to a token service on plain http, not even for an anonymous
// token. The login is sent only to hosts that may receive it.
func (r *Realms) check(realm *url.URL) error {
	if r.Registry.Scheme == "https" && realm.Scheme == "http" {
		return fmt.Errorf("the registry uses https, but its token service at %s uses plain http", realm.Host)
	}
	switch {
	case !r.HasLogin || r.mayReceiveLogin(realm):
		return nil
	case realm.Scheme == "http":
		return &WithheldError{"the credentials are not sent to the token service at " + realm.Host + ", because it uses plain http and is not the registry's own; give it https, or remove the credentials"}
	}
	return &WithheldError{"the credentials are not sent to the token service at " + realm.Host + "; add " + realm.Host + " to realm_hosts to permit it"}
}

// mayReceiveLogin reports whether the login may be sent to realm: to the
// registry's own origin, and over https to its registrable domain and the
// configured hosts.
func (r *Realms) mayReceiveLogin(realm *url.URL) bool {
	if origin.Same(r.Registry, realm) {
		return true
	}
	if realm.Scheme != "https" {
		return false
	}
	for _, host := range r.Hosts {
		if origin.Same(&url.URL{Scheme: "https", Host: host}, realm) {
			return true
		}
	}
	own := registrableDomain(r.Registry.Hostname())
	return own != "" && own == registrableDomain(realm.Hostname())
}

// registrableDomain returns the domain below the public suffix, such as
// "docker.io" for "registry-1.docker.io". It returns "" for an IP address and for
// a public suffix.
func registrableDomain(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	domain, err := publicsuffix.EffectiveTLDPlusOne(host)
	if err != nil {
		return ""
	}
	return domain
}
