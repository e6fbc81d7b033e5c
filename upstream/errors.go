package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Kind says what an error means to the caller.
type Kind uint8

// The kinds of [Error].
const (
	// Other is what [KindOf] answers for errors that are no [*Error]: the
	// caller's own cancellation, or a reference that it should have checked.
	Other Kind = iota
	// NameUnknown: upstream has no such repository.
	NameUnknown
	// ManifestUnknown: upstream has no such tag or manifest. HEAD answers have
	// no body, so a missing repository may look like this as well.
	ManifestUnknown
	// BlobUnknown: upstream has no such blob in this repository.
	BlobUnknown
	// Denied: the registry said 401 or 403 although nothing was wrong with the
	// login: no such repository, or a private one.
	Denied
	// Credentials: the configured credentials were refused, or must not be
	// sent where the registry wants them. For the administrator to mend.
	Credentials
	// RateLimited: the registry or its token service said 429. RetryAfter
	// holds the wait that it asked for, if any.
	RateLimited
	// Unavailable: no connection, a broken transfer, a 5xx.
	Unavailable
	// Timeout: upstream took too long.
	Timeout
	// Invalid: upstream's answer makes no sense or breaks a limit.
	Invalid
)

var kindNames = [...]string{"other", "name unknown", "manifest unknown", "blob unknown", "denied",
	"credentials", "rate limited", "unavailable", "timeout", "invalid"}

// String names the kind in lower case, "rate limited".
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// Error is an upstream's fault or refusal. Its text names upstream, repository
// and object; it never holds credentials, tokens or URLs, nor free text that
// upstream chose.
type Error struct {
	Kind       Kind
	Upstream   string        // the configured name
	Repository string        // as upstream knows it; empty if none was concerned
	Status     int           // upstream's HTTP status, 0 if there was no answer
	RetryAfter time.Duration // how long upstream asks to be left alone, at most an hour, 0 if it did not say
	Message    string        // what went wrong, without names
	Err        error         // the cause, may be nil
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("upstream " + e.Upstream)
	if e.Repository != "" {
		b.WriteString(": " + e.Repository)
	}
	b.WriteString(": " + e.Message)
	if e.Status != 0 {
		b.WriteString(" (HTTP " + strconv.Itoa(e.Status) + ")")
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first [*Error] in err's chain, or [Other].
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Other
}

// ErrPlainHTTP is the cause of an [*Error] where an https registry has redirected
// to plain http. What anybody on the way may have written confirms nothing; only
// content that is checked against its digest may come from there.
var ErrPlainHTTP = errors.New("redirected from https to plain http")

// errTooSlow is the cause of the contexts that this package ends itself, which
// is how its own limits are told from a caller's deadline.
var errTooSlow = errors.New("no answer in time")

// fail builds the error for a call.
func (r *Registry) fail(c *call, kind Kind, status int, message string) *Error {
	return &Error{Kind: kind, Upstream: r.name, Repository: c.repository, Status: status, Message: c.what + ": " + message}
}

// broken turns an error of the transport, or of reading a body, into ours.
func (r *Registry) broken(ctx context.Context, c *call, err error) error {
	if ctx.Err() != nil {
		if !errors.Is(context.Cause(ctx), errTooSlow) {
			return fmt.Errorf("upstream %s: %s: %s: %w", r.name, c.repository, c.what, ctx.Err())
		}
		return r.fail(c, Timeout, 0, fmt.Sprintf("no answer within %v", r.limit))
	}
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	// *url.Error prints the URL, and a presigned one is a capability.
	for withURL := (*url.Error)(nil); errors.As(err, &withURL); {
		err = withURL.Err
	}
	e := r.fail(c, Unavailable, 0, "no usable answer")
	var refused *refusedAddressError
	var slow net.Error
	switch {
	case errors.As(err, &refused):
		e.Message = c.what + ": not connected"
		e.Err = refused
	case errors.As(err, &slow) && slow.Timeout():
		e.Kind = Timeout
		// Flattened: net's timeouts match context.DeadlineExceeded, and this
		// is not the caller's deadline.
		e.Err = errors.New(err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Err = errors.New(err.Error())
	default:
		e.Err = err
	}
	return e
}

// maxRetryAfter bounds Retry-After, so that a nonsensical date does not switch
// an upstream off for a week.
const maxRetryAfter = time.Hour

// retryAfter reads Retry-After (RFC 9110, 10.2.3), as seconds or as a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return maxRetryAfter // more digits than an int holds
		}
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, min(at.Sub(now), maxRetryAfter))
}
