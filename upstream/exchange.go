package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const (
	maxRedirects  = 5        // registries need one or two
	maxErrorBody  = 64 << 10 // bytes of an error answer that are read for its code
	maxAuthRounds = 2        // a first token, and another one if that was stale
)

// answer is the response at the end of the redirects.
type answer struct {
	*http.Response
	foreign bool // it came from another origin than was asked first
	plain   bool // a redirect from https has led to plain http on the way
}

// do asks the registry, with whatever authentication it wants. The answer may
// have any status. The caller closes its body.
func (r *Registry) do(ctx context.Context, c *call) (*answer, error) {
	auth, err := r.authorization(ctx, c)
	if err != nil {
		return nil, err
	}
	target := r.url(c)
	for round := 0; ; round++ {
		a, err := r.follow(ctx, c, target, auth.header)
		if err != nil {
			return nil, err
		}
		if a.StatusCode != http.StatusUnauthorized || a.foreign || round == maxAuthRounds {
			return a, nil
		}
		discard(a.Body)
		if auth, err = r.answerChallenge(ctx, c, a.Header, auth); err != nil {
			return nil, err
		}
	}
}

// follow sends a request and follows redirects by hand. Authorization goes to
// the first origin only, and not again once a redirect has left it; nothing
// says where a request came from. The transport is used without an http.Client:
// that would repeat whole URLs in its errors.
func (r *Registry) follow(ctx context.Context, c *call, target *url.URL, authorization string) (*answer, error) {
	origin, foreign, plain := target, false, false
	for hops := 0; ; hops++ {
		header := c.header.Clone()
		header.Set("User-Agent", r.userAgent) // empty: none, not Go's
		header.Set("Accept-Encoding", "identity")
		if authorization != "" && !foreign {
			header.Set("Authorization", authorization)
		}
		response, err := r.roundTrip(ctx, c, target, header)
		if err != nil {
			return nil, err
		}
		next, err := redirection(response, target)
		if err != nil {
			discard(response.Body)
			return nil, r.fail(c, Invalid, response.StatusCode, err.Error())
		}
		if next == nil {
			return &answer{response, foreign, plain}, nil
		}
		discard(response.Body)
		if hops == maxRedirects {
			return nil, r.fail(c, Invalid, response.StatusCode, fmt.Sprintf("more than %d redirects", maxRedirects))
		}
		if target.Scheme == "https" && next.Scheme == "http" {
			if !c.verified || c.method == http.MethodHead {
				e := r.fail(c, Invalid, response.StatusCode, "refused")
				e.Err = ErrPlainHTTP
				return nil, e
			}
			plain = true
		}
		foreign = foreign || !sameOrigin(origin, next)
		target = next
	}
}

// roundTrip is one exchange.
func (r *Registry) roundTrip(ctx context.Context, c *call, target *url.URL, header http.Header) (*http.Response, error) {
	request := (&http.Request{Method: c.method, URL: target, Host: target.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	start := r.now()
	transport := r.transport
	if c.bounded && r.ranges != nil {
		transport = r.ranges
	}
	response, err := transport.RoundTrip(request)
	if err == nil && response == nil {
		err = errors.New("the transport returned neither an answer nor an error")
	}
	e := Exchange{Operation: c.operation, Method: c.method, Host: target.Host, Elapsed: r.now().Sub(start), Remaining: -1}
	if err == nil {
		e.Status = response.StatusCode
		e.Remaining = rateRemaining(response.Header)
		if response.Body == nil {
			response.Body = http.NoBody
		}
	}
	if r.hooks.Request != nil {
		r.hooks.Request(e)
	}
	if err != nil {
		return nil, r.broken(ctx, c, err)
	}
	return response, nil
}

// rateRemaining reads Docker Hub's "ratelimit-remaining: 76;w=21600".
func rateRemaining(h http.Header) int {
	value, _, _ := strings.Cut(h.Get("RateLimit-Remaining"), ";")
	n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}

// redirection returns where a response sends us, nil if nowhere. Its errors do
// not repeat the Location, which may be presigned.
func redirection(response *http.Response, from *url.URL) (*url.URL, error) {
	switch response.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	location := response.Header.Get("Location")
	if location == "" {
		return nil, errors.New("redirect without a location")
	}
	next, err := from.Parse(location)
	if err != nil || next.Host == "" || (next.Scheme != "http" && next.Scheme != "https") {
		return nil, errors.New("redirect to something other than an http or https URL")
	}
	next.User, next.Fragment, next.RawFragment = nil, "", ""
	return next, nil
}

// sameOrigin compares scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}

// discard reads what little is left of a body, so that the connection can be
// used again, and closes it.
func discard(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 4<<10)
	_ = body.Close()
}

// codeKinds gives the meaning of the distribution-spec's error codes where they
// say more than the status.
var codeKinds = map[string]Kind{
	"NAME_UNKNOWN":     NameUnknown,
	"NAME_INVALID":     NameUnknown,
	"MANIFEST_UNKNOWN": ManifestUnknown,
	"TAG_INVALID":      ManifestUnknown,
	"BLOB_UNKNOWN":     BlobUnknown,
	"TOOMANYREQUESTS":  RateLimited,
	"DENIED":           Denied,
	"UNAUTHORIZED":     Denied,
}

// refusal turns an answer that is no success into an error, and closes it.
func (r *Registry) refusal(c *call, a *answer) *Error {
	code := errorCode(a.Body)
	_ = a.Body.Close()
	e := r.fail(c, Invalid, a.StatusCode, "unexpected answer")
	e.RetryAfter = retryAfter(a.Header, r.now())
	kind, known := codeKinds[code]
	switch status := a.StatusCode; {
	case status == http.StatusTooManyRequests || known && kind == RateLimited:
		e.Kind, e.Message = RateLimited, c.what+": upstream's rate limit is reached"
	case status >= 500:
		e.Kind, e.Message = Unavailable, c.what+": upstream is in trouble"
	case status == http.StatusRequestTimeout:
		e.Kind, e.Message = Timeout, c.what+": upstream gave up waiting"
	case a.foreign && (status == http.StatusUnauthorized || status == http.StatusForbidden):
		// Storage refused what the registry sent us to: an expired signature.
		e.Kind, e.Message = Unavailable, c.what+": refused after a redirect"
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusUnavailableForLegalReasons:
		e.Kind, e.Message = Denied, c.what+": denied: no such repository, or a private one"
	case status == http.StatusNotFound || status == http.StatusGone:
		e.Kind, e.Message = c.unknown, c.what+": not found"
		if known {
			e.Kind = kind
		}
	case status == http.StatusBadRequest && known:
		e.Kind, e.Message = kind, c.what+": refused"
	}
	if code != "" {
		e.Message += ": " + code
	}
	return e
}

// errorCode reads the first code of an error answer (distribution-spec v1.1,
// "Error Codes"). The message beside it is not used: it is free text of
// someone else's.
func errorCode(body io.Reader) string {
	var answer struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	content, err := io.ReadAll(io.LimitReader(body, maxErrorBody))
	if err != nil || json.Unmarshal(content, &answer) != nil || len(answer.Errors) == 0 {
		return ""
	}
	code := answer.Errors[0].Code
	if len(code) > 40 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
		return ""
	}
	return code
}
