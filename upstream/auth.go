package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// acceptedChallenge is a Basic or Bearer challenge that the client can answer.
type acceptedChallenge struct {
	bearer  bool     // otherwise Basic
	realm   *url.URL // of the token service
	service string
}

// sameToken reports whether two challenges ask for the same token.
func (a *acceptedChallenge) sameToken(b *acceptedChallenge) bool {
	return a.bearer && b.bearer && a.service == b.service && a.realm.String() == b.realm.String()
}

// authorization is the Authorization header of a request and its origin.
type authorization struct {
	header    string             // "" for none
	login     sentLogin          // in the header; none if it is a bearer token
	token     *token             // nil unless header is a bearer token
	fresh     bool               // the token was fetched for this request
	challenge *acceptedChallenge // the challenge that the token answers
}

// initialAuthorization returns the authorization for the first request of a
// call: none if the registry has not sent a challenge yet, otherwise the answer
// to its last challenge.
func (r *Registry) initialAuthorization(ctx context.Context, c *call) (authorization, error) {
	challenge := r.challenge.Load()
	if challenge == nil {
		return authorization{}, nil
	}
	return r.authorize(ctx, c, challenge)
}

// authorize returns the authorization that answers a challenge.
func (r *Registry) authorize(ctx context.Context, c *call, challenge *acceptedChallenge) (authorization, error) {
	if !challenge.bearer {
		login, err := r.currentLogin(ctx, c)
		return authorization{header: login.header(), login: login}, err
	}
	t, fresh, err := r.token(ctx, c, challenge)
	if err != nil {
		return authorization{}, err
	}
	return authorization{header: "Bearer " + t.value, token: t, fresh: fresh, challenge: challenge}, nil
}

// answerChallenge returns the authorization for the next attempt after the
// registry responded with 401 to a request that carried used.
func (r *Registry) answerChallenge(ctx context.Context, c *call, header http.Header, used authorization) (authorization, error) {
	challenge, err := r.selectChallenge(c, parseChallenges(header.Values("WWW-Authenticate")))
	if err != nil {
		return authorization{}, err
	}
	if used.token != nil {
		r.tokens.drop(c.repository, used.token)
	}
	switch {
	case used.fresh && challenge.sameToken(used.challenge):
		return authorization{}, r.newError(c, Denied, http.StatusUnauthorized, "access denied; the repository does not exist or is private")
	case !challenge.bearer && r.login == nil:
		return authorization{}, r.newError(c, Denied, http.StatusUnauthorized, "access denied; the registry requires a login, and none is configured")
	case !challenge.bearer && used.login != sentLogin{}:
		login, ok, err := r.newerLogin(ctx, c, used.login)
		if err == nil && !ok {
			err = r.rejectedLogin(c)
		}
		return authorization{header: login.header(), login: login}, err
	}
	r.challenge.Store(challenge)
	return r.authorize(ctx, c, challenge)
}

// selectChallenge returns the first valid Bearer challenge, or a Basic one if
// there is none.
func (r *Registry) selectChallenge(c *call, challenges []challenge) (*acceptedChallenge, error) {
	basic := false
	var invalid error
	for _, ch := range challenges {
		switch ch.scheme {
		case "basic":
			basic = true
		case "bearer":
			realm, err := parseRealm(ch.params["realm"])
			if err != nil {
				invalid = err
				continue
			}
			if err := r.checkRealm(realm); err != nil {
				return nil, r.newError(c, Credentials, http.StatusUnauthorized, err.Error())
			}
			return &acceptedChallenge{bearer: true, realm: realm, service: ch.params["service"]}, nil
		}
	}
	if basic {
		return &acceptedChallenge{}, nil
	}
	if invalid != nil {
		return nil, r.newError(c, Invalid, http.StatusUnauthorized, invalid.Error())
	}
	return nil, r.newError(c, Denied, http.StatusUnauthorized, "access denied without a supported challenge")
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

// checkRealm returns an error if the token service at realm must not be asked.
// An https registry cannot refer to a token service on plain http, not even for
// an anonymous token. The login is sent only to hosts that may receive it.
func (r *Registry) checkRealm(realm *url.URL) error {
	if r.endpoint.Scheme == "https" && realm.Scheme == "http" {
		return fmt.Errorf("the registry uses https, but its token service at %s uses plain http", realm.Host)
	}
	if r.login != nil && !r.mayReceiveLogin(realm) {
		return fmt.Errorf("the credentials must not be sent to the token service at %s; add the host to realm_hosts to permit it", realm.Host)
	}
	return nil
}

// mayReceiveLogin reports whether the login may be sent to realm: to the
// registry's own origin, and over https to its registrable domain and the
// configured hosts.
func (r *Registry) mayReceiveLogin(realm *url.URL) bool {
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
