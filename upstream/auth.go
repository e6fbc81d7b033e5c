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

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
)

// acceptedChallenge is a Basic or Bearer challenge that the client can answer.
type acceptedChallenge struct {
	bearer  bool     // otherwise Basic
	realm   *url.URL // of the token service
	service string

	// repository is that of the scope, or "" if the scope is not for pulling a
	// repository. It belongs to the response that the challenge came with.
	repository string
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
	refusal   error              // of the token service, which refused a token
	unknown   error              // of the registry, which could not tell its challenge
}

// initialAuthorization returns the authorization for the first request of a
// call: the answer to the registry's last challenge. Without one so far, it is none,
// unless there is a login: the registry is then asked for its challenge first,
// because it may hide what anonymous clients may not see. If the token service cannot
// answer, the registry is asked for its challenge again. If the token service refuses a
// token for the repository, the first request is sent without one: the challenge to it
// may name the scope under which the token service knows the repository.
func (r *Registry) initialAuthorization(ctx context.Context, c *call) (authorization, error) {
	var unknown error
	if r.challenge.Load() == nil && r.login != nil {
		unknown = r.learnChallenge(ctx, c)
	}
	challenge := r.challenge.Load()
	if challenge == nil {
		return authorization{unknown: unknown}, nil
	}
	auth, err := r.authorize(ctx, c, challenge)
	if challenge.bearer && err != nil {
		if other := r.otherChallenge(ctx, c, challenge, err); other != nil {
			r.challenge.Store(other)
			challenge = other
			auth, err = r.authorize(ctx, c, challenge)
		}
	}
	if challenge.bearer && KindOf(err) == Denied {
		return authorization{challenge: challenge, refusal: err}, nil
	}
	return auth, err
}

// authorize returns the authorization that answers a challenge.
func (r *Registry) authorize(ctx context.Context, c *call, challenge *acceptedChallenge) (authorization, error) {
	if !challenge.bearer {
		login, err := r.currentLogin(ctx, c)
		if err == nil && login.isIdentityToken() {
			err = r.newError(c, Withheld, 0, "the registry asks for a user name and a password, but the configured login is an identity token")
		}
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
func (r *Registry) answerChallenge(ctx context.Context, c *call, h http.Header, used authorization) (authorization, error) {
	challenge, err := r.selectChallenge(c, header.ParseChallenges(h.Values("WWW-Authenticate")))
	if err != nil {
		return authorization{}, err
	}
	if used.token != nil {
		r.tokens.drop(c.repository, used.token)
	}
	switch {
	case used.refusal != nil && challenge.sameToken(used.challenge):
		return r.authorizeAs(ctx, c, challenge, used.refusal)
	case used.fresh && challenge.sameToken(used.challenge):
		denied := r.newError(c, Denied, http.StatusUnauthorized, "access denied; the repository does not exist or is private")
		if used.token.repository != c.repository {
			r.tokens.forget(c.repository)
			return authorization{}, denied
		}
		return r.authorizeAs(ctx, c, challenge, denied)
	case !challenge.bearer && r.login == nil:
		return authorization{}, r.newError(c, Denied, http.StatusUnauthorized, "access denied; the registry requires a login, and none is configured")
	case !challenge.bearer && used.login != sentLogin{}:
		return r.replaceLogin(ctx, c, used.login, http.StatusUnauthorized)
	}
	r.challenge.Store(challenge)
	auth, err := r.authorize(ctx, c, challenge)
	if challenge.bearer && KindOf(err) == Denied {
		return r.authorizeAs(ctx, c, challenge, err)
	}
	return auth, err
}

// replaceLogin returns the authorization with a newer login than a refused one, or
// the error of the refusal, which had the given status, if there is none.
func (r *Registry) replaceLogin(ctx context.Context, c *call, refused sentLogin, status int) (authorization, error) {
	login, ok, err := r.newerLogin(ctx, c, refused)
	if err == nil && !ok {
		err = r.rejectedLogin(c, status)
	}
	return authorization{header: login.header(), login: login}, err
}

// authorizeAs is authorize with the scope of the challenge in place of that of the
// repository, which was refused: a gateway may call its repositories otherwise
// than its token service. It returns the refusal if the challenge has no other
// scope to pull a repository. The scope is remembered for the repository.
func (r *Registry) authorizeAs(ctx context.Context, c *call, challenge *acceptedChallenge, refusal error) (authorization, error) {
	if challenge.repository == "" || challenge.repository == c.repository {
		return authorization{}, refusal
	}
	t, err := r.obtainToken(ctx, c, tokenRequest{key: c.repository, challenge: challenge, repository: challenge.repository})
	if err != nil {
		return authorization{}, err
	}
	return authorization{header: "Bearer " + t.value, token: t, fresh: true, challenge: challenge}, nil
}

// selectChallenge returns the first valid Bearer challenge, or a Basic one if
// there is none.
func (r *Registry) selectChallenge(c *call, challenges []header.Challenge) (*acceptedChallenge, error) {
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
			if kind, err := r.checkRealm(realm); err != nil {
				return nil, r.newError(c, kind, http.StatusUnauthorized, err.Error())
			}
			return &acceptedChallenge{bearer: true, realm: realm, service: ch.Params["service"], repository: header.PullScope(ch.Params["scope"])}, nil
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

// checkRealm returns an error and its kind if the token service at realm must not
// be asked. An https registry cannot refer to a token service on plain http, not
// even for an anonymous token. The login is sent only to hosts that may receive it.
func (r *Registry) checkRealm(realm *url.URL) (Kind, error) {
	if r.endpoint.Scheme == "https" && realm.Scheme == "http" {
		return Invalid, fmt.Errorf("the registry uses https, but its token service at %s uses plain http", realm.Host)
	}
	switch {
	case r.login == nil || r.mayReceiveLogin(realm):
		return Other, nil
	case realm.Scheme == "http":
		return Withheld, fmt.Errorf("the credentials are not sent to the token service at %s, because it uses plain http and is not the registry's own; give it https, or remove the credentials", realm.Host)
	}
	return Withheld, fmt.Errorf("the credentials are not sent to the token service at %s; add %s to realm_hosts to permit it", realm.Host, realm.Host)
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
