package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/flight"
)

const (
	maxTokenResponse = 1 << 20  // in bytes
	maxToken         = 16 << 10 // in bytes; a longer one exceeds every registry's header limit
	maxTokens        = 1024     // repositories whose token is cached

	// minTokenLife is the lifetime of a token whose expires_in is missing or
	// shorter. The token specification sets this minimum.
	minTokenLife = time.Minute

	// maxTokenLife limits expires_in.
	maxTokenLife = time.Hour
)

// token is a bearer token to pull one repository.
type token struct {
	value      string
	renewAt    time.Time // after 80% of its lifetime, so that it outlasts the request
	repository string    // of the scope
}

// tokenCache caches tokens by the repository that they are used for: a registry
// has one login and asks for one scope per repository. Anonymous tokens of foreign
// registries have keys of their own, see foreignKey.
type tokenCache struct {
	tokens  *lru.Cache[string, *token]
	fetches singleflight.Group
}

func newTokenCache() *tokenCache {
	tokens, err := lru.New[string, *token](maxTokens)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &tokenCache{tokens: tokens}
}

// valid returns the token with a key, or nil if there is none or it is due to be
// renewed.
func (t *tokenCache) valid(key string, now time.Time) *token {
	if found, ok := t.tokens.Get(key); ok && now.Before(found.renewAt) {
		return found
	}
	return nil
}

// drop makes a rejected token due to be renewed, unless another has replaced it.
// The repository of its scope stays known.
func (t *tokenCache) drop(key string, rejected *token) {
	if current, ok := t.tokens.Peek(key); ok && current == rejected {
		t.tokens.Add(key, &token{repository: rejected.repository})
	}
}

// forget removes the token with a key, and the repository of its scope.
func (t *tokenCache) forget(key string) { t.tokens.Remove(key) }

// tokenRequest describes a token.
type tokenRequest struct {
	key        string // in the cache
	challenge  *acceptedChallenge
	repository string // of the scope
	anonymous  bool   // the login must not be sent
}

// token returns a token to pull c's repository, and whether it was fetched by
// this call. It is a token for the repository's own name, unless the registry has
// refused that and accepted the scope of its challenge. That scope is forgotten if
// the token service refuses it.
func (r *Registry) token(ctx context.Context, c *call, challenge *acceptedChallenge) (t *token, fresh bool, err error) {
	if t := r.tokens.valid(c.repository, r.now()); t != nil {
		return t, false, nil
	}
	wanted := tokenRequest{key: c.repository, challenge: challenge, repository: c.repository}
	if old, ok := r.tokens.tokens.Peek(c.repository); ok {
		wanted.repository = old.repository
	}
	t, err = r.obtainToken(ctx, c, wanted)
	if wanted.repository != c.repository && KindOf(err) == Denied {
		r.tokens.forget(c.repository)
		wanted.repository = c.repository
		t, err = r.obtainToken(ctx, c, wanted)
	}
	return t, err == nil, err
}

// obtainToken requests a token and stores it in the cache. Concurrent calls for
// the same token share one request. The request does not end with ctx, so that a
// caller that leaves does not fail the others, but after the registry's timeout.
// Failures are not cached.
func (r *Registry) obtainToken(ctx context.Context, c *call, wanted tokenRequest) (*token, error) {
	realm := wanted.challenge.realm
	key := realm.String() + "\x00" + wanted.challenge.service + "\x00" + wanted.repository + "\x00" + wanted.key
	fetched := flight.Start(ctx, &r.tokens.fetches, key, func(ctx context.Context) (*token, error) {
		ctx, cancel := r.withTimeout(ctx)
		defer cancel()
		t, err := r.fetchToken(ctx, c.repository, wanted)
		if r.hooks.Token != nil {
			r.hooks.Token(realm.Host, err)
		}
		if err != nil {
			return nil, err
		}
		r.tokens.tokens.Add(wanted.key, t)
		return t, nil
	})
	select {
	case <-ctx.Done():
		return nil, r.transportError(ctx, c, ctx.Err())
	case result := <-fetched:
		return flight.Value[*token](result)
	}
}

// fetchToken requests a token. The repository is that of the call, for errors.
func (r *Registry) fetchToken(ctx context.Context, repository string, wanted tokenRequest) (*token, error) {
	c := &call{
		method:       http.MethodGet,
		repository:   repository,
		header:       http.Header{"Accept": {"application/json"}},
		object:       "token from " + wanted.challenge.realm.Host,
		notFound:     Invalid,
		tokenService: true,
	}
	resp, err := r.askTokenService(ctx, c, wanted)
	if err != nil {
		return nil, err
	}
	content, err := r.readAll(ctx, c, resp, maxTokenResponse)
	if err != nil {
		return nil, err
	}
	t, err := parseToken(content, r.now())
	if err != nil {
		return nil, r.newError(c, Invalid, resp.StatusCode, err.Error())
	}
	t.repository = wanted.repository
	return t, nil
}

// askTokenService sends a token request with the login, unless it is anonymous, and
// returns a response with status 200. If the service refuses the login, and the
// source has a newer one, the request is repeated.
func (r *Registry) askTokenService(ctx context.Context, c *call, wanted tokenRequest) (*response, error) {
	var login sentLogin
	if !wanted.anonymous {
		var err error
		if login, err = r.currentLogin(ctx, c); err != nil {
			return nil, err
		}
	}
	for {
		resp, err := r.requestToken(ctx, c, wanted, login)
		if err != nil || resp.StatusCode == http.StatusOK {
			return resp, err
		}
		failure := r.tokenStatusError(c, resp)
		if !r.blamesLogin(ctx, c, wanted, login, failure) {
			return nil, failure
		}
		newer, ok, err := r.newerLogin(ctx, c, login)
		if err != nil {
			return nil, err
		}
		if !ok {
			failure.Kind, failure.message = Credentials, c.object+": the token service rejected the configured credentials"
			return nil, failure
		}
		login = newer
	}
}

// blamesLogin reports whether a failed token request means that the token service
// refuses the login itself. Services answer 401 or 403 also for a repository that
// the account may not read; what they answer without a scope decides. If they do
// not support that, 401 is about the login and 403 about the repository.
func (r *Registry) blamesLogin(ctx context.Context, c *call, wanted tokenRequest, login sentLogin, failure *Error) bool {
	realm := wanted.challenge.realm.String()
	switch {
	case login == (sentLogin{}):
		return false
	case failure.Kind == Denied:
	case failure.Status == http.StatusBadRequest && r.wantsPost(realm, login): // RFC 6749, section 5.2: invalid_grant
	default:
		return false
	}
	answer := r.probe(ctx, "token "+realm+" "+wanted.challenge.service, login, func(ctx context.Context) (*response, error) {
		return r.requestToken(ctx, c, tokenRequest{challenge: wanted.challenge}, login)
	})
	return answer == refused || answer == undecided && failure.Status != http.StatusForbidden
}

// tokenStatusError is statusError for a response of the token service. There, 404
// does not mean that an image is unknown.
func (r *Registry) tokenStatusError(c *call, resp *response) *Error {
	e := r.statusError(c, resp)
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
	case e.Kind == NameUnknown || e.Kind == ManifestUnknown || e.Kind == BlobUnknown || e.Kind == Denied:
		e.Kind = Invalid
	}
	return e
}

// parseToken parses the response of a token service. Errors do not repeat it.
func parseToken(content []byte, now time.Time) (*token, error) {
	var response struct {
		Token       string          `json:"token"`
		AccessToken string          `json:"access_token"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
	}
	if json.Unmarshal(content, &response) != nil {
		return nil, errors.New("the response is not a token response")
	}
	value := response.Token
	if value == "" {
		value = response.AccessToken
	}
	if value == "" || len(value) > maxToken || !isPrintable(value) {
		return nil, errors.New("the response does not contain a valid token")
	}
	// Anything but a number is treated like a missing expires_in.
	life := minTokenLife
	var seconds float64
	if json.Unmarshal(response.ExpiresIn, &seconds) == nil {
		life = time.Duration(min(max(seconds, minTokenLife.Seconds()), maxTokenLife.Seconds()) * float64(time.Second))
	}
	return &token{value: value, renewAt: now.Add(life * 4 / 5)}, nil
}

// isPrintable reports whether s consists of printable ASCII characters without
// blanks, so that it can be part of a header.
func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
