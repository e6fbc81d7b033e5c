package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

const (
	maxTokenAnswer = 1 << 20  // bytes of a token service's answer
	maxToken       = 16 << 10 // bytes of a token; what is longer fits in no registry's header limit
	maxTokens      = 1024     // repositories whose token is kept
	// minTokenLife is what a token without expires_in, or with less, lives: the
	// token specification says that no client need cope with less.
	minTokenLife = time.Minute
	// maxTokenLife bounds the belief in expires_in.
	maxTokenLife = time.Hour
)

// token is a bearer token for one repository.
type token struct {
	value   string
	renewAt time.Time // 80% of its life: what is handed out lasts for the request
}

// tokenCache keeps tokens by repository. One registry has one login, so the
// repository's pull scope is the whole key.
type tokenCache struct {
	kept    *lru.Cache[string, *token]
	flights singleflight.Group
}

func newTokenCache() *tokenCache {
	kept, err := lru.New[string, *token](maxTokens)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &tokenCache{kept: kept}
}

// drop forgets a token that was refused, unless another has replaced it.
func (t *tokenCache) drop(repository string, refused *token) {
	if current, ok := t.kept.Peek(repository); ok && current == refused {
		t.kept.Remove(repository)
	}
}

// token returns a token to pull c's repository, and whether it was fetched just
// now. Callers that want the same one at once share a request; it runs under a
// limit of its own, so that one who leaves does not fail the others, and ends
// by that limit at the latest. Failures are not remembered.
func (r *Registry) token(ctx context.Context, c *call, from *accepted) (t *token, fresh bool, err error) {
	if t, ok := r.tokens.kept.Get(c.repository); ok && r.now().Before(t.renewAt) {
		return t, false, nil
	}
	flight := r.tokens.flights.DoChan(from.realm.String()+"\x00"+from.service+"\x00"+c.repository, func() (any, error) {
		// Values are kept: a foreign transport may look for its own.
		ctx, cancel := r.bounded(context.WithoutCancel(ctx))
		defer cancel()
		t, err := r.fetchToken(ctx, c.repository, from)
		if r.hooks.Token != nil {
			r.hooks.Token(from.realm.Host, err)
		}
		if err != nil {
			return nil, err
		}
		r.tokens.kept.Add(c.repository, t)
		return t, nil
	})
	select {
	case <-ctx.Done():
		return nil, false, r.broken(ctx, c, ctx.Err())
	case done := <-flight:
		if done.Err != nil {
			return nil, false, done.Err
		}
		return done.Val.(*token), true, nil
	}
}

// fetchToken asks the token service, in the GET form that all of them know.
func (r *Registry) fetchToken(ctx context.Context, repository string, from *accepted) (*token, error) {
	c := &call{
		operation:  "token",
		method:     http.MethodGet,
		repository: repository,
		header:     http.Header{"Accept": {"application/json"}},
		what:       "token from " + from.realm.Host,
	}
	target := *from.realm
	query := target.Query()
	if from.service != "" {
		query.Set("service", from.service)
	}
	query.Set("scope", "repository:"+repository+":pull")
	target.RawQuery = query.Encode()
	a, err := r.follow(ctx, c, &target, r.basic())
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK {
		return nil, r.tokenRefusal(c, a)
	}
	content, err := r.readAll(ctx, c, a, maxTokenAnswer)
	if err != nil {
		return nil, err
	}
	t, err := parseToken(content, r.now())
	if err != nil {
		return nil, r.fail(c, Invalid, a.StatusCode, err.Error())
	}
	return t, nil
}

// tokenRefusal is refusal for the token service, where 401 and 403 speak of the
// login, if one was sent, and 404 does not speak of an image.
func (r *Registry) tokenRefusal(c *call, a *answer) error {
	c.unknown = Invalid
	e := r.refusal(c, a)
	switch {
	case a.StatusCode == http.StatusUnauthorized || a.StatusCode == http.StatusForbidden:
		if e.Kind == Denied && r.basic() != "" {
			e.Kind, e.Message = Credentials, c.what+": the credentials were refused"
		}
	case e.Kind == NameUnknown || e.Kind == ManifestUnknown || e.Kind == BlobUnknown || e.Kind == Denied:
		e.Kind = Invalid
	}
	return e
}

// parseToken reads a token answer. Its errors do not repeat it.
func parseToken(content []byte, now time.Time) (*token, error) {
	var answer struct {
		Token       string          `json:"token"`
		AccessToken string          `json:"access_token"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
	}
	if json.Unmarshal(content, &answer) != nil {
		return nil, fmt.Errorf("the answer is not a token answer")
	}
	value := answer.Token
	if value == "" {
		value = answer.AccessToken
	}
	if value == "" || len(value) > maxToken || !printable(value) {
		return nil, fmt.Errorf("the answer holds no usable token")
	}
	// Only a number counts; anything else is ignored.
	life := minTokenLife
	var seconds float64
	if json.Unmarshal(answer.ExpiresIn, &seconds) == nil {
		life = time.Duration(min(max(seconds, minTokenLife.Seconds()), maxTokenLife.Seconds()) * float64(time.Second))
	}
	return &token{value: value, renewAt: now.Add(life * 4 / 5)}, nil
}

// printable reports whether s can stand in a header behind "Bearer ".
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// readAll reads a whole answer of at most limit bytes, and closes it.
func (r *Registry) readAll(ctx context.Context, c *call, a *answer, limit int64) ([]byte, error) {
	defer a.Body.Close()
	if encoded(a.Response) {
		return nil, r.fail(c, Invalid, a.StatusCode, "the answer is encoded although that was ruled out")
	}
	if a.ContentLength > limit {
		return nil, r.fail(c, Invalid, a.StatusCode, fmt.Sprintf("larger than %d bytes", limit))
	}
	content, err := r.readBody(ctx, io.LimitReader(a.Body, limit+1))
	if err != nil {
		return nil, r.broken(ctx, c, err)
	}
	if int64(len(content)) > limit {
		return nil, r.fail(c, Invalid, a.StatusCode, fmt.Sprintf("larger than %d bytes", limit))
	}
	return content, nil
}

const (
	// smallAnswer is how much of an answer is read without waiting for a turn.
	smallAnswer = 64 << 10

	// largeAnswers is how many larger ones are read at a time: an upstream that
	// sends them slowly must not fill the memory.
	largeAnswers = 16
)

func (r *Registry) readBody(ctx context.Context, body io.Reader) ([]byte, error) {
	var content bytes.Buffer
	if _, err := io.CopyN(&content, body, smallAnswer); err == io.EOF {
		return content.Bytes(), nil
	} else if err != nil {
		return nil, err
	}
	select {
	case r.large <- struct{}{}:
		defer func() { <-r.large }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	_, err := content.ReadFrom(body)
	return content.Bytes(), err
}

// encoded reports whether a body is something other than the stored bytes.
func encoded(response *http.Response) bool {
	coding := response.Header.Get("Content-Encoding")
	return response.Uncompressed || coding != "" && coding != "identity"
}
