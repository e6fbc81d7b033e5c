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
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
)

const (
	issuerTimeout = 10 * time.Second // for the discovery document and the keys together
	issuerAnswer  = 512 << 10        // limit on either of them, in bytes
	issuerAgain   = 10 * time.Second // between two questions
	keysFresh     = 15 * time.Minute // age at which the keys are asked for again
	keysUsable    = time.Hour        // age up to which they are used if that fails
)

// issuer is an issuer of id tokens with the keys that it publishes (OpenID Connect
// Discovery 1.0).
type issuer struct {
	url    string
	client *http.Client
	keys   *memo.Cache[[]jose.JSONWebKey] // under an empty key
}

func newIssuer(url string, transport http.RoundTripper) *issuer {
	i := &issuer{url: url, keys: memo.New(memo.Config[[]jose.JSONWebKey]{
		Size: 1, Fresh: keysFresh, Stale: keysUsable, Timeout: issuerTimeout,
		Judge: func(error) (memo.Verdict, time.Duration) { return memo.AllFailed, issuerAgain },
	})}
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

// keysFor returns the keys that may have made a signature, or none if the issuer
// publishes no such key. An error means that the issuer cannot be asked. A key that
// is missing is asked for at most once in issuerAgain, since anybody can write a
// token that names a key which does not exist.
func (i *issuer) keysFor(ctx context.Context, header jose.Header) ([]jose.JSONWebKey, error) {
	keys, err := i.keys.Get(ctx, "", i.fetch)
	if matching := keysOf(keys, header); err != nil || len(matching) > 0 {
		return matching, err
	}
	keys, err = i.keys.Newer(ctx, "", issuerAgain, i.fetch)
	return keysOf(keys, header), err
}

// keysOf returns the keys that fit a header. A token need not name the key if
// there is only one (OpenID Connect Core 1.0, section 10.1).
func keysOf(keys []jose.JSONWebKey, header jose.Header) (matching []jose.JSONWebKey) {
	for _, key := range keys {
		named := key.KeyID == header.KeyID || header.KeyID == "" && len(keys) == 1
		if named && (key.Algorithm == "" || key.Algorithm == header.Algorithm) {
			matching = append(matching, key)
		}
	}
	return matching
}

func (i *issuer) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, i.client), i.url)
	if err != nil {
		return nil, fmt.Errorf("reading the discovery document of %s: %.*s", i.url, maxReason, err) // the error may quote it all
	}
	var document struct {
		KeySet string `json:"jwks_uri"`
	}
	if err := provider.Claims(&document); err != nil {
		return nil, fmt.Errorf("reading the discovery document of %s: %.*s", i.url, maxReason, err)
	}
	keys, err := i.fetchKeys(ctx, document.KeySet)
	if err != nil {
		return nil, fmt.Errorf("reading the keys of %s: %w", i.url, err)
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
		return nil, fmt.Errorf("%s returned status %d", location, response.StatusCode)
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

// usableKeys returns the keys of a key set (RFC 7517), without those of an unknown
// kind, those for encryption and those that are not public.
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
		return nil, errors.New("it has no key that can be used")
	}
	return keys, nil
}

// permit rejects a URL that is not https: whoever controls the answer decides which
// logins succeed. An issuer on a loopback address may use http.
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

// boundedAnswers limits the bodies of answers to issuerAnswer.
type boundedAnswers struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (b boundedAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		response.Body = http.MaxBytesReader(nil, response.Body, issuerAnswer)
	}
	return response, err
}

// CloseIdleConnections is called by [http.Client.CloseIdleConnections].
func (b boundedAnswers) CloseIdleConnections() {
	if closer, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// tokenKeys is a token with the keys that may have signed it.
type tokenKeys struct {
	token *jose.JSONWebSignature
	keys  []jose.JSONWebKey
}

// VerifySignature implements [oidc.KeySet] for this token alone.
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
	return nil, errors.New("no key of the issuer matches the signature")
}
