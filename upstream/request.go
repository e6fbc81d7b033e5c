package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/internal/origin"
)

const (
	maxRedirects      = 5 // registries need one or two
	maxAuthRounds     = 3 // for a first token, a second one if that was rejected, and one of another scope
	maxForeignAnswers = 2 // registries to which redirects lead, whose challenge is answered
)

// trail records the redirects that a request has followed.
type trail struct {
	origin *url.URL // of the first request
	target *url.URL // of the next request, or of the last one
	hops   int      // redirects so far

	foreign bool // a redirect has left the origin
	plain   bool // a redirect has led from https to plain http

	anonymous *auth.Token // the token that the last request carried for a foreign origin, or nil
	answered  []string    // the foreign origins whose challenge was answered
}

// newTrail returns the trail of a request for target.
func newTrail(target *url.URL) *trail { return &trail{origin: target, target: target} }

// do sends a call with the authentication that the registry asks for, and
// returns the response, whatever its status. If a redirect leads to another
// registry, its challenge is answered too, without the login. The caller closes
// the body.
func (r *Registry) do(ctx context.Context, c *call) (*response, error) {
	if err := r.checkOnline(c); err != nil {
		return nil, err // before the login is asked for
	}
	answer, err := r.initialAuthorization(ctx, c)
	if err != nil {
		if KindOf(err) == Withheld {
			err = asUnsent(err)
		}
		return nil, err
	}
	way := newTrail(r.url(c))
	for round := 0; ; {
		resp, err := r.follow(ctx, c, way, answer.header)
		if err != nil {
			return nil, err
		}
		switch {
		case resp.StatusCode == http.StatusForbidden && !resp.foreign && answer.login != sentLogin{} && r.refusesLogin(ctx, answer.login.login):
			// An expired login at some registries.
			discard(resp.Body)
			if answer, err = r.replaceLogin(ctx, c, answer.login, resp.StatusCode); err != nil {
				return nil, err
			}
			way = newTrail(r.url(c))
			continue
		case answer.unknown != nil && (resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusNotFound):
			// It may be hidden from anonymous clients.
			discard(resp.Body)
			return nil, answer.unknown
		case resp.StatusCode != http.StatusUnauthorized:
			return resp, nil
		}
		if resp.foreign {
			if again, err := r.answerForeign(ctx, c, resp); !again {
				return resp, err
			}
			continue
		}
		if round == maxAuthRounds {
			return resp, nil
		}
		round++
		discard(resp.Body)
		if answer, err = r.answerChallenge(ctx, c, resp.Header, answer); err != nil {
			return nil, err
		}
		way = newTrail(r.url(c))
	}
}

// get sends a GET and returns the response if its status is 200.
func (r *Registry) get(ctx context.Context, c *call) (*response, error) {
	resp, err := r.do(ctx, c)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, r.statusError(c, resp)
	}
	return resp, nil
}

// follow sends a request to the target of a trail and follows redirects.
// Authorization is sent to the first origin only, and not again once a redirect
// has left it; Referer and cookies are never sent. Other registries receive the
// anonymous tokens that they asked for. follow uses the transport without an
// http.Client, whose errors would contain complete URLs.
func (r *Registry) follow(ctx context.Context, c *call, way *trail, authorization string) (*response, error) {
	for {
		header := c.header.Clone()
		header.Set("User-Agent", r.userAgent) // an empty value suppresses Go's own
		header.Set("Accept-Encoding", "identity")
		if way.foreign {
			authorization = ""
			if way.anonymous = r.foreignToken(c, way); way.anonymous != nil {
				authorization = way.anonymous.Header()
			}
		}
		if authorization != "" {
			header.Set("Authorization", authorization)
		}
		resp, err := r.roundTrip(ctx, c, way.target, header)
		if e := (*Error)(nil); way.foreign && errors.As(err, &e) {
			e.own = false
		}
		if err != nil {
			return nil, err
		}
		if !way.foreign && !c.tokenService {
			r.recordBudget(resp.Header)
		}
		next, err := redirectTarget(resp, way.target)
		if err != nil {
			discard(resp.Body)
			return nil, r.newError(c, Invalid, resp.StatusCode, err.Error())
		}
		if next == nil {
			return &response{resp, way}, nil
		}
		discard(resp.Body)
		if c.form != nil {
			return nil, r.newError(c, Invalid, resp.StatusCode, "a request with the login was redirected")
		}
		if way.hops == maxRedirects {
			return nil, r.newError(c, Invalid, resp.StatusCode, fmt.Sprintf("more than %d redirects", maxRedirects))
		}
		way.hops++
		if way.target.Scheme == "https" && next.Scheme == "http" {
			if !c.verified || c.method == http.MethodHead {
				e := r.newError(c, Invalid, resp.StatusCode, "redirect refused")
				e.cause = ErrPlainHTTP
				return nil, e
			}
			way.plain = true
		}
		way.foreign = way.foreign || !origin.Same(way.origin, next)
		way.target = next
	}
}

// roundTrip sends one request and returns its response.
func (r *Registry) roundTrip(ctx context.Context, c *call, target *url.URL, header http.Header) (*http.Response, error) {
	if err := r.checkOnline(c); err != nil {
		return nil, err
	}
	header.Set("Via", r.via(ctx))
	request := (&http.Request{Method: c.method, URL: target, Host: target.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	if c.form != nil {
		body := c.form.Encode()
		request.Body, request.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
	}
	transport := r.transport
	if c.boundedRange && r.ranges != nil {
		transport = r.ranges
	}
	began := time.Now()
	resp, err := transport.RoundTrip(request)
	if err == nil && resp == nil {
		err = errors.New("the transport returned neither a response nor an error")
	}
	r.hooks.answered(c, resp, time.Since(began))
	if err != nil {
		return nil, r.transportError(ctx, c, err)
	}
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	if r.hooks.Received != nil {
		resp.Body = &countedBody{resp.Body, r.hooks.Received}
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
