package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// accepted is a challenge that we can answer.
type accepted struct {
	bearer  bool     // otherwise Basic
	realm   *url.URL // of the token service
	service string
}

// same reports whether two challenges ask for the same token.
func (a *accepted) same(b *accepted) bool {
	return a.bearer && b.bearer && a.service == b.service && a.realm.String() == b.realm.String()
}

// authorization is what a request carries, and how it was come by.
type authorization struct {
	header string // "" for none
	token  *token // nil unless a bearer token
	fresh  bool   // the token was fetched for this very request
	from   *accepted
}

// authorization returns what to send first: nothing to a registry that has not
// challenged us yet, else what its last challenge wanted.
func (r *Registry) authorization(ctx context.Context, c *call) (authorization, error) {
	known := r.challenge.Load()
	if known == nil {
		return authorization{}, nil
	}
	return r.authorize(ctx, c, known)
}

func (r *Registry) authorize(ctx context.Context, c *call, wanted *accepted) (authorization, error) {
	if !wanted.bearer {
		return authorization{header: r.basic()}, nil
	}
	t, fresh, err := r.token(ctx, c, wanted)
	if err != nil {
		return authorization{}, err
	}
	return authorization{header: "Bearer " + t.value, token: t, fresh: fresh, from: wanted}, nil
}

// answerChallenge decides what to do about a 401 of the registry's own host
// that came although used was sent.
func (r *Registry) answerChallenge(ctx context.Context, c *call, header http.Header, used authorization) (authorization, error) {
	wanted, err := r.accept(c, parseChallenges(header.Values("WWW-Authenticate")))
	if err != nil {
		return authorization{}, err
	}
	if used.token != nil {
		r.tokens.drop(c.repository, used.token)
	}
	switch {
	case used.fresh && wanted.same(used.from):
		return authorization{}, r.fail(c, Denied, http.StatusUnauthorized, "denied: no such repository, or a private one")
	case !wanted.bearer && r.basic() == "":
		return authorization{}, r.fail(c, Denied, http.StatusUnauthorized, "denied: the registry wants a login, and none is configured")
	case !wanted.bearer && used.header == r.basic():
		return authorization{}, r.fail(c, Credentials, http.StatusUnauthorized, "the registry refused the credentials")
	}
	r.challenge.Store(wanted)
	return r.authorize(ctx, c, wanted)
}

// accept picks the first Bearer challenge that makes sense, else a Basic one.
func (r *Registry) accept(c *call, offered []challenge) (*accepted, error) {
	basic := false
	var mistake error
	for _, ch := range offered {
		switch ch.scheme {
		case "basic":
			basic = true
		case "bearer":
			realm, err := parseRealm(ch.params["realm"])
			if err != nil {
				mistake = err
				continue
			}
			if err := r.checkRealm(realm); err != nil {
				return nil, r.fail(c, Credentials, http.StatusUnauthorized, err.Error())
			}
			return &accepted{bearer: true, realm: realm, service: ch.params["service"]}, nil
		}
	}
	if basic {
		return &accepted{}, nil
	}
	if mistake != nil {
		return nil, r.fail(c, Invalid, http.StatusUnauthorized, mistake.Error())
	}
	return nil, r.fail(c, Denied, http.StatusUnauthorized, "denied, without a challenge that this client can answer")
}

// parseRealm reads the address of a token service. Clients disagree about
// anything but an absolute URL, so that is what it must be.
func parseRealm(text string) (*url.URL, error) {
	realm, err := url.Parse(text)
	if err != nil || realm.Host == "" || realm.User != nil || (realm.Scheme != "http" && realm.Scheme != "https") {
		return nil, errors.New("the challenge's realm is not an absolute http or https URL")
	}
	realm.Fragment, realm.RawFragment = "", ""
	return realm, nil
}

// checkRealm says whether we ask this token service at all. A registry that
// speaks https cannot send us to plain http, not even for an anonymous token;
// a login goes only to hosts that may have it.
func (r *Registry) checkRealm(realm *url.URL) error {
	if r.endpoint.Scheme == "https" && realm.Scheme == "http" {
		return fmt.Errorf("the token service at %s speaks plain http, the registry https", realm.Host)
	}
	if r.basic() != "" && !r.trusted(realm) {
		return fmt.Errorf("the credentials are not configured for the token service at %s; name it as a realm host to permit it", realm.Host)
	}
	return nil
}

// trusted reports whether a realm may be given the login: the registry itself,
// and over https its registrable domain and the configured hosts.
func (r *Registry) trusted(realm *url.URL) bool {
	if sameOrigin(r.endpoint, realm) {
		return true
	}
	if realm.Scheme != "https" {
		return false
	}
	for _, host := range r.realmHosts {
		if sameOrigin(&url.URL{Scheme: "https", Host: host}, realm) {
			return true
		}
	}
	own := registrableDomain(r.endpoint.Hostname())
	return own != "" && own == registrableDomain(realm.Hostname())
}

// registrableDomain returns "docker.io" for "registry-1.docker.io", and "" for
// addresses and for names that are a public suffix themselves.
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
