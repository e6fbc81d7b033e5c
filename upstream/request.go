package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const (
	maxRedirects  = 5 // registries need one or two
	maxAuthRounds = 3 // for a first token or login, for a second one if that was rejected, and for a changed challenge
)

// do sends a call with the authentication that the registry asks for, and
// returns the response, whatever its status. The caller closes its body.
func (r *Registry) do(ctx context.Context, c *call) (*response, error) {
	auth, err := r.initialAuthorization(ctx, c)
	if err != nil {
		return nil, err
	}
	target := r.url(c)
	for round := 0; ; round++ {
		resp, err := r.follow(ctx, c, target, auth.header)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusUnauthorized || resp.foreign || round == maxAuthRounds {
			return resp, nil
		}
		discard(resp.Body)
		if auth, err = r.answerChallenge(ctx, c, resp.Header, auth); err != nil {
			return nil, err
		}
	}
}

// follow sends a request to target and follows redirects. Authorization is sent
// to the first origin only, and not again once a redirect has left it; Referer
// and cookies are never sent. follow uses the transport without an http.Client,
// whose errors would contain complete URLs.
func (r *Registry) follow(ctx context.Context, c *call, target *url.URL, authorization string) (*response, error) {
	origin, foreign, plain := target, false, false
	for hops := 0; ; hops++ {
		header := c.header.Clone()
		header.Set("User-Agent", r.userAgent) // an empty value suppresses Go's own
		header.Set("Accept-Encoding", "identity")
		if authorization != "" && !foreign {
			header.Set("Authorization", authorization)
		}
		resp, err := r.roundTrip(ctx, c, target, header)
		if err != nil {
			return nil, err
		}
		next, err := redirectTarget(resp, target)
		if err != nil {
			discard(resp.Body)
			return nil, r.newError(c, Invalid, resp.StatusCode, err.Error())
		}
		if next == nil {
			return &response{resp, foreign, plain}, nil
		}
		discard(resp.Body)
		if hops == maxRedirects {
			return nil, r.newError(c, Invalid, resp.StatusCode, fmt.Sprintf("more than %d redirects", maxRedirects))
		}
		if target.Scheme == "https" && next.Scheme == "http" {
			if !c.verified || c.method == http.MethodHead {
				e := r.newError(c, Invalid, resp.StatusCode, "redirect refused")
				e.cause = ErrPlainHTTP
				return nil, e
			}
			plain = true
		}
		foreign = foreign || !sameOrigin(origin, next)
		target = next
	}
}

// roundTrip sends one request and returns its response.
func (r *Registry) roundTrip(ctx context.Context, c *call, target *url.URL, header http.Header) (*http.Response, error) {
	request := (&http.Request{Method: c.method, URL: target, Host: target.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	transport := r.transport
	if c.boundedRange && r.ranges != nil {
		transport = r.ranges
	}
	resp, err := transport.RoundTrip(request)
	if err == nil && resp == nil {
		err = errors.New("the transport returned neither a response nor an error")
	}
	if err != nil {
		return nil, r.transportError(ctx, c, err)
	}
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	return resp, nil
}

// redirectTarget returns the URL to which resp redirects a request for from, or
// nil if resp is not a redirect. Errors do not repeat the Location, which may be
// presigned.
func redirectTarget(resp *http.Response, from *url.URL) (*url.URL, error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	location := resp.Header.Get("Location")
	if location == "" {
		return nil, errors.New("redirect without a Location header")
	}
	next, err := from.Parse(location)
	if err != nil || next.Host == "" || (next.Scheme != "http" && next.Scheme != "https") {
		return nil, errors.New("redirect to something other than an http or https URL")
	}
	next.User, next.Fragment, next.RawFragment = nil, "", ""
	return next, nil
}

// sameOrigin reports whether a and b have the same scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

// port returns the port of u, or the default port of its scheme.
func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}
