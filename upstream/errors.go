package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// Kind classifies an [Error] by its cause.
type Kind uint8

// The kinds of an [Error].
const (
	// Other is the kind of every error that is not an [*Error]: the end of the
	// caller's context, or invalid arguments.
	Other Kind = iota

	// NameUnknown means that the registry does not have the repository.
	NameUnknown

	// ManifestUnknown means that the repository does not have the tag or
	// manifest. A response to HEAD has no body, so it also stands for a missing
	// repository.
	ManifestUnknown

	// BlobUnknown means that the repository does not have the blob.
	BlobUnknown

	// Denied means that the registry or its token service denied access, with 401
	// or 403, although it did not reject the login: the repository does not exist
	// or is private.
	Denied

	// Credentials means that the configured login was rejected. The administrator
	// has to change the configuration.
	Credentials

	// Withheld means that the configured login was not sent: it cannot be obtained,
	// the token service that the registry uses may not receive it, or the registry
	// wants another kind of login. The administrator has to change the configuration.
	Withheld

	// RateLimited means that the registry or its token service responded with
	// 429. RetryAfter is the delay that it asked for, if any.
	RateLimited

	// Unavailable means that no connection was made, a transfer broke off, or
	// the registry or a server that it refers to responded with an error that is
	// likely to pass.
	Unavailable

	// Timeout means that the registry did not respond in time.
	Timeout

	// Invalid means that the response violates the specification or a limit.
	Invalid

	// Unsupported means that the registry has the manifest in a format that is not
	// supported: Docker's schema 1.
	Unsupported

	// Refused means that the registry responded to a request for tags with 400 or
	// 404 and a code, which is in Error.Code, such as PAGINATION_NUMBER_INVALID.
	Refused

	// Loop means that the registry is this proxy itself, or leads back to it.
	Loop

	// Offline means that nothing was sent, because the configuration forbids it; see
	// Config.Offline.
	Offline
)

var kindNames = [...]string{"other", "name unknown", "manifest unknown", "blob unknown", "denied",
	"credentials", "withheld", "rate limited", "unavailable", "timeout", "invalid", "unsupported", "refused", "loop", "offline"}

// String returns the name of the kind in lower case, such as "rate limited".
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// KindOf returns the kind of the first [*Error] in err's chain, or [Other].
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Other
}

// Error is a failure of the registry or a refusal by it. Its text names the
// upstream, the repository and the object. It contains no credential, token or
// URL, and no text from the registry except a well-formed error code and the host
// of a token service or a redirect.
type Error struct {
	// Kind is the cause.
	Kind Kind

	// RetryAfter is the delay that the registry asked for, at most one hour, or
	// 0.
	RetryAfter time.Duration

	// Status is the HTTP status of the response, or 0 if there was none. It is
	// that of a success if the response was unusable or broke off.
	Status int

	// Code is the first error code of the response, at most 40 upper-case letters
	// and underscores, or empty.
	Code string

	// Detail is the message that the registry sent with Code, for a log only: at
	// most 200 bytes of printable text without URLs, the credentials of the
	// request, and words long enough to be a secret. It is not part of the text of
	// the error.
	Detail string

	// Held reports that no request was sent, because the endpoint is down or limits
	// requests. RetryAfter is then the rest of the pause, a second if a request is just
	// finding out whether the endpoint answers, or 0 if the endpoint limits requests and
	// did not say for how long.
	Held bool

	// Limit is what the registry limits if the kind is [RateLimited].
	Limit ratelimit.Limit

	upstream   string // Config.Name
	repository string // as upstream knows it
	message    string
	cause      error // may be nil

	own  bool // the registry or its token service failed, and not a server to which it redirects
	head bool // the request was a HEAD; a GET might have succeeded
	pull bool // only requests that count as pulls are limited

	unsent bool // no request was sent for it; see asUnsent
}

// Error returns the text of the error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("upstream " + e.upstream)
	if e.repository != "" {
		b.WriteString(": " + e.repository)
	}
	b.WriteString(": " + e.reason())
	return b.String()
}

// reason returns the text of the error without the upstream and the repository.
func (e *Error) reason() string {
	var b strings.Builder
	b.WriteString(e.message)
	if e.Status != 0 {
		b.WriteString(" (HTTP " + strconv.Itoa(e.Status) + ")")
	}
	if e.cause != nil {
		b.WriteString(": " + e.cause.Error())
	}
	return b.String()
}

// Unwrap returns the cause of the error, or nil.
func (e *Error) Unwrap() error { return e.cause }

// ErrPlainHTTP is the cause of an [*Error] if an https registry redirected to
// plain http. Anyone on the network path can forge such a response, so only
// content that is checked against its digest is accepted from there.
var ErrPlainHTTP = errors.New("redirected from https to plain http")

// timeoutError is the cause of contexts that end because of a limit of this
// package. It distinguishes them from the caller's own deadline.
type timeoutError time.Duration

func (e timeoutError) Error() string { return fmt.Sprintf("no response within %v", time.Duration(e)) }

// newError returns an error of a call.
func (r *Registry) newError(c *call, kind Kind, status int, message string) *Error {
	return &Error{Kind: kind, Status: status, upstream: r.name, repository: c.repository, message: c.object + ": " + message}
}

// transferError is transportError for an error of reading the body of a response.
func (r *Registry) transferError(ctx context.Context, c *call, status int, err error) error {
	err = r.transportError(ctx, c, err)
	if e := (*Error)(nil); errors.As(err, &e) {
		e.own = false // the header has arrived
		if e.Kind == Unavailable && e.Status == 0 {
			e.Status, e.message = status, c.object+": the transfer broke off"
		}
	}
	return err
}

// transportError converts an error of the transport, or of reading a body, to an
// [*Error], or to one that wraps ctx's error if the caller ended the context.
func (r *Registry) transportError(ctx context.Context, c *call, err error) error {
	if ctx.Err() != nil {
		var late timeoutError
		if !errors.As(context.Cause(ctx), &late) {
			return fmt.Errorf("upstream %s: %s: %s: %w", r.name, c.repository, c.object, ctx.Err())
		}
		e := r.newError(c, Timeout, 0, late.Error())
		e.own = true
		return e
	}
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	// The text of a *url.Error contains the URL, which may be presigned.
	for withURL := (*url.Error)(nil); errors.As(err, &withURL); {
		err = withURL.Err
	}
	e := r.newError(c, Unavailable, 0, "request failed")
	e.own = true
	var blocked *dial.BlockedError
	var netError net.Error
	switch {
	case errors.As(err, &blocked):
		e.message = c.object + ": connection not permitted"
		e.cause, e.own = blocked, false
	case errors.As(err, &netError) && netError.Timeout():
		e.Kind = Timeout
		// Only the text is kept: timeouts of package net match
		// context.DeadlineExceeded, which stands for the caller's deadline.
		e.cause = errors.New(err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.cause = errors.New(err.Error())
	default:
		e.cause = &quietError{err}
	}
	return e
}

// quietError is an error of the transport. Its text ends before the first quotation:
// package net/http quotes what it cannot parse of a response, and that may quote the
// request.
type quietError struct{ error }

// Error returns the text of the error.
func (e *quietError) Error() string {
	text, _, _ := strings.Cut(e.error.Error(), `"`)
	return strings.TrimRight(text, " :=,(")
}

// Unwrap returns the error of the transport.
func (e *quietError) Unwrap() error { return e.error }
