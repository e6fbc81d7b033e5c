package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
)

const (
	issuerTimeout = 10 * time.Second // for the discovery document and the keys together
	issuerAnswer  = 512 << 10        // bytes of either that are read
	issuerAgain   = 10 * time.Second // between two times that an issuer is asked
	keysFresh     = 15 * time.Minute // after which they are asked for again
	keysUsable    = time.Hour        // while that fails
)

// issuer are the keys of an issuer of id tokens, as it publishes them
// (OpenID Connect Discovery 1.0). Logins ask for them, all that wait at once,
// and no context but its own ends that.
type issuer struct {
	url    string
	client *http.Client
	flight singleflight.Group

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched time.Time // when the keys came; zero for never
	asked   time.Time // when the issuer was asked last
	err     error     // what came of it
}

func newIssuer(url string, transport http.RoundTripper) *issuer {
	i := &issuer{url: url}
	i.client = &http.Client{
		Transport: boundedAnswers{transport},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return errors.New("too many redirects")
			}
			return i.permit(r.URL)
		},
	}
	return i
}

// keysFor returns the keys that may have made a signature, none if the issuer
// has none such. An error means that it cannot be told.
func (i *issuer) keysFor(ctx context.Context, header jose.Header) ([]jose.JSONWebKey, error) {
	keys, fresh, _ := i.known(header)
	if fresh && len(keys) > 0 {
		return keys, nil
	}
	_, _, _ = i.flight.Do("", func() (any, error) {
		i.ask(ctx)
		return nil, nil
	})
	keys, _, err := i.known(header)
	if len(keys) > 0 {
		return keys, nil
	}
	return nil, err
}

// known returns what is known without asking, and what came of asking last.
func (i *issuer) known(header jose.Header) (keys []jose.JSONWebKey, fresh bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	age := time.Since(i.fetched)
	if age > keysUsable {
		return nil, false, i.err
	}
	for _, key := range i.keys {
		// A token need not name the key where there is but one (OpenID Connect
		// Core 1.0, section 10.1).
		named := key.KeyID == header.KeyID || header.KeyID == "" && len(i.keys) == 1
		if named && (key.Algorithm == "" || key.Algorithm == header.Algorithm) {
			keys = append(keys, key)
		}
	}
	return keys, age <= keysFresh, i.err
}

// ask fetches the keys unless that was tried just now: whoever can write a
// token with a key that is not there must not make us ask for it each time.
func (i *issuer) ask(ctx context.Context) {
	i.mu.Lock()
	recent := !i.asked.IsZero() && time.Since(i.asked) < issuerAgain
	i.mu.Unlock()
	if recent {
		return
	}
	ctx, cancel := memo.Background(ctx, issuerTimeout)
	defer cancel()
	keys, err := i.fetch(ctx)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked, i.err = time.Now(), err
	if err == nil {
		i.keys, i.fetched = keys, i.asked
	}
}

func (i *issuer) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, i.client), i.url)
	if err != nil {
		return nil, fmt.Errorf("read the discovery document of %s: %.*s", i.url, maxReason, err) // it may quote all of it
	}
	var document struct {
		KeySet string `json:"jwks_uri"`
	}
	if err := provider.Claims(&document); err != nil {
		return nil, fmt.Errorf("read the discovery document of %s: %.*s", i.url, maxReason, err)
	}
	keys, err := i.fetchKeys(ctx, document.KeySet)
	if err != nil {
		return nil, fmt.Errorf("read the keys of %s: %w", i.url, err)
	}
	return keys, nil
}

func (i *issuer) fetchKeys(ctx context.Context, location string) ([]jose.JSONWebKey, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, location, nil)
	if err != nil {
		return nil, err
	}
	if err := i.permit(request.URL); err != nil {
		return nil, err
	}
	response, err := i.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers with status %d", location, response.StatusCode)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	keys, err := usableKeys(body)
	if err != nil {
		return nil, fmt.Errorf("the key set at %s: %w", location, err)
	}
	return keys, nil
}

// usableKeys reads a key set (RFC 7517) and leaves out what cannot be used:
// keys of an unknown kind, for encryption, or that are not public.
func usableKeys(keySet []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(keySet, &set); err != nil {
		return nil, err
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if err := json.Unmarshal(raw, &key); err != nil {
			continue
		}
		if key.Valid() && key.IsPublic() && (key.Use == "" || key.Use == "sig") {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key in it that can be used")
	}
	return keys, nil
}

// permit keeps what decides who gets in on encrypted connections.
func (i *issuer) permit(u *url.URL) error {
	if u.Scheme == "https" && u.Host != "" {
		return nil
	}
	if issuer, err := url.Parse(i.url); err == nil && issuer.Scheme == "http" && u.Scheme == "http" && isLoopback(u) {
		return nil
	}
	return fmt.Errorf("the issuer refers to %.*q, which is not https", maxReason, u.Redacted())
}

func isLoopback(u *url.URL) bool {
	address, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && address.IsLoopback()
}

// boundedAnswers lets no answer be read beyond issuerAnswer.
type boundedAnswers struct{ http.RoundTripper }

func (b boundedAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		response.Body = http.MaxBytesReader(nil, response.Body, issuerAnswer)
	}
	return response, err
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] looks for.
func (b boundedAnswers) CloseIdleConnections() {
	if closer, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// tokenKeys verifies one token with the keys that may have signed it.
type tokenKeys struct {
	token *jose.JSONWebSignature
	keys  []jose.JSONWebKey
}

// VerifySignature implements [oidc.KeySet] for the token that it was made for.
func (t tokenKeys) VerifySignature(context.Context, string) ([]byte, error) {
	if len(t.keys) == 0 {
		header := t.token.Signatures[0].Header
		return nil, fmt.Errorf("the issuer has no key %q for %s", header.KeyID, header.Algorithm)
	}
	for _, key := range t.keys {
		if payload, err := t.token.Verify(key.Key); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("the signature is not by a key of the issuer")
}
