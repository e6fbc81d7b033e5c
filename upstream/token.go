package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
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

// token is a bearer token for one repository.
type token struct {
	value   string
	renewAt time.Time // after 80% of its lifetime, so that it outlasts the request
}

// tokenCache caches tokens by repository. A registry has one login and asks for
// one scope per repository, so the repository identifies the token.
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

// drop removes a rejected token from the cache, unless another has replaced it.
func (t *tokenCache) drop(repository string, rejected *token) {
	if current, ok := t.tokens.Peek(repository); ok && current == rejected {
		t.tokens.Remove(repository)
	}
}

// token returns a token to pull c's repository, and whether it was fetched by
// this call. Concurrent calls for the same token share one request. The request
// does not end with ctx, so that a caller that leaves does not fail the others,
// but after the registry's timeout. Failures are not cached.
func (r *Registry) token(ctx context.Context, c *call, challenge *acceptedChallenge) (t *token, fresh bool, err error) {
	if t, ok := r.tokens.tokens.Get(c.repository); ok && r.now().Before(t.renewAt) {
		return t, false, nil
	}
	key := challenge.realm.String() + "\x00" + challenge.service + "\x00" + c.repository
	fetched := flight.Start(ctx, &r.tokens.fetches, key, func(ctx context.Context) (*token, error) {
		ctx, cancel := r.withTimeout(ctx)
		defer cancel()
		t, err := r.fetchToken(ctx, c.repository, challenge)
		if r.hooks.Token != nil {
			r.hooks.Token(challenge.realm.Host, err)
		}
		if err != nil {
			return nil, err
		}
		r.tokens.tokens.Add(c.repository, t)
		return t, nil
	})
	select {
	case <-ctx.Done():
		return nil, false, r.transportError(ctx, c, ctx.Err())
	case result := <-fetched:
		t, err := flight.Value[*token](result)
		return t, err == nil, err
	}
}

// fetchToken requests a token with GET, the form that every token service
// supports.
func (r *Registry) fetchToken(ctx context.Context, repository string, challenge *acceptedChallenge) (*token, error) {
	c := &call{
		method:     http.MethodGet,
		repository: repository,
		header:     http.Header{"Accept": {"application/json"}},
		object:     "token from " + challenge.realm.Host,
		notFound:   Invalid,
	}
	target := *challenge.realm
	query := target.Query()
	if challenge.service != "" {
		query.Set("service", challenge.service)
	}
	query.Set("scope", "repository:"+repository+":pull")
	target.RawQuery = query.Encode()
	resp, err := r.askTokenService(ctx, c, &target)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, r.tokenStatusError(c, resp)
	}
	content, err := r.readAll(ctx, c, resp, maxTokenResponse)
	if err != nil {
		return nil, err
	}
	t, err := parseToken(content, r.now())
	if err != nil {
		return nil, r.newError(c, Invalid, resp.StatusCode, err.Error())
	}
	return t, nil
}

// askTokenService sends a request to a token service with the login. If the
// service refuses that, and the source has a newer one, the request is repeated.
func (r *Registry) askTokenService(ctx context.Context, c *call, target *url.URL) (*response, error) {
	login, err := r.currentLogin(ctx, c)
	if err != nil {
		return nil, err
	}
	for {
		resp, err := r.follow(ctx, c, target, login.header())
		if err != nil || resp.StatusCode != http.StatusUnauthorized || resp.foreign {
			return resp, err
		}
		newer, ok, err := r.newerLogin(ctx, c, login)
		if err != nil {
			discard(resp.Body)
			return nil, err
		}
		if !ok {
			return resp, nil
		}
		discard(resp.Body)
		login = newer
	}
}

// tokenStatusError is statusError for a response of the token service. There,
// 401 and 403 reject the login, if one was sent, and 404 does not mean that an
// image is unknown.
func (r *Registry) tokenStatusError(c *call, resp *response) error {
	e := r.statusError(c, resp)
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		if e.Kind == Denied && r.login != nil {
			e.Kind, e.message = Credentials, c.object+": the token service rejected the configured credentials"
		}
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
