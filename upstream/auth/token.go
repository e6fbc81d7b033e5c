package auth

import (
	"encoding/json"
	"errors"
	"net/url"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
)

const (
	maxToken  = 16 << 10 // in bytes; a longer one exceeds every registry's header limit
	maxTokens = 1024     // repositories whose token is cached

	// minTokenLife is the lifetime of a token whose expires_in is missing or
	// shorter. The token specification sets this minimum.
	minTokenLife = time.Minute

	// maxTokenLife limits expires_in.
	maxTokenLife = time.Hour

	// clientID is the client_id of OAuth2 requests, which the specification
	// requires and services log.
	clientID = "dependency-proxy"
)

// Token is a bearer token to pull one repository.
type Token struct {
	Value      string
	Repository string // of the scope

	renewAt time.Time // after 80% of its lifetime, so that it outlasts the request
}

// Header returns the Authorization header of the token.
func (t *Token) Header() string { return "Bearer " + t.Value }

// Tokens caches the tokens of a registry, 1024 at most, by the repository that they are
// used for: a registry has one login and asks for one scope per repository. Tokens of
// other registries need keys that are no names of repositories. It is safe for
// concurrent use.
type Tokens struct{ cache *lru.Cache[string, *Token] }

// NewTokens returns an empty cache.
func NewTokens() *Tokens {
	cache, err := lru.New[string, *Token](maxTokens)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &Tokens{cache}
}

// Add adds a token, or replaces that with the key.
func (t *Tokens) Add(key string, token *Token) { t.cache.Add(key, token) }

// Valid returns the token with a key, or nil if there is none or it is due to be
// renewed.
func (t *Tokens) Valid(key string, now time.Time) *Token {
	if found, ok := t.cache.Get(key); ok && now.Before(found.renewAt) {
		return found
	}
	return nil
}

// Repository returns the repository of the scope of the last token with a key, which may
// be due to be renewed. It reports false if there is none.
func (t *Tokens) Repository(key string) (repository string, ok bool) {
	last, ok := t.cache.Peek(key)
	if !ok {
		return "", false
	}
	return last.Repository, true
}

// Drop makes a rejected token due to be renewed, unless another has replaced it.
// The repository of its scope stays known.
func (t *Tokens) Drop(key string, rejected *Token) {
	if current, ok := t.cache.Peek(key); ok && current == rejected {
		t.cache.Add(key, &Token{Repository: rejected.Repository})
	}
}

// Forget removes the token with a key, and the repository of its scope.
func (t *Tokens) Forget(key string) { t.cache.Remove(key) }

// Request is a request for a token.
type Request struct {
	Challenge  *Challenge // a Bearer challenge, which the token answers
	Repository string     // that the token is to pull, or "" for a token without a scope
}

// URL returns the address of a GET (distribution, "Token Authentication Specification").
func (r Request) URL() *url.URL {
	target := *r.Challenge.Realm
	query := target.Query()
	for key, values := range r.parameters() {
		query[key] = values
	}
	target.RawQuery = query.Encode()
	return &target
}

// Form returns the body of a POST with a login (distribution, "OAuth2 Token
// Authentication"), whose address is the realm of the challenge.
func (r Request) Form(login Login) url.Values {
	form := r.parameters()
	form.Set("client_id", clientID)
	if login.IsIdentityToken() {
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", string(login.Password))
	} else {
		form.Set("grant_type", "password")
		form.Set("username", login.Username)
		form.Set("password", string(login.Password))
	}
	return form
}

// parameters returns the parameters that GET and POST share.
func (r Request) parameters() url.Values {
	values := url.Values{}
	if r.Challenge.Service != "" {
		values.Set("service", r.Challenge.Service)
	}
	if r.Repository != "" {
		values.Set("scope", "repository:"+r.Repository+":pull")
	}
	return values
}

// ParseToken parses the response of a token service, which was received at now. Errors
// do not repeat it.
func (r Request) ParseToken(content []byte, now time.Time) (*Token, error) {
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
	if value == "" || len(value) > maxToken || !header.IsVisible(value) {
		return nil, errors.New("the response does not contain a valid token")
	}
	// Anything but a number is treated like a missing expires_in.
	life := minTokenLife
	var seconds float64
	if json.Unmarshal(response.ExpiresIn, &seconds) == nil {
		life = time.Duration(min(max(seconds, minTokenLife.Seconds()), maxTokenLife.Seconds()) * float64(time.Second))
	}
	return &Token{Value: value, Repository: r.Repository, renewAt: now.Add(life * 4 / 5)}, nil
}
