package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// problem is an error code of the OCI distribution specification ("Error
// Codes") with the status that it is sent with.
type problem struct {
	code   string
	status int
}

var (
	unauthorized    = problem{"UNAUTHORIZED", http.StatusUnauthorized}
	denied          = problem{"DENIED", http.StatusForbidden}
	nameInvalid     = problem{"NAME_INVALID", http.StatusBadRequest}
	tagInvalid      = problem{"TAG_INVALID", http.StatusBadRequest}
	digestInvalid   = problem{"DIGEST_INVALID", http.StatusBadRequest}
	nameUnknown     = problem{"NAME_UNKNOWN", http.StatusNotFound}
	manifestUnknown = problem{"MANIFEST_UNKNOWN", http.StatusNotFound}
	blobUnknown     = problem{"BLOB_UNKNOWN", http.StatusNotFound}
	unsupported     = problem{"UNSUPPORTED", http.StatusMethodNotAllowed}
	badRequest      = problem{"UNSUPPORTED", http.StatusBadRequest}
	tooManyRequests = problem{"TOOMANYREQUESTS", http.StatusTooManyRequests}

	// The specification has no code for trouble behind the registry; this
	// one is common, and clients decide on the status.
	badGateway     = problem{"UNAVAILABLE", http.StatusBadGateway}
	unavailable    = problem{"UNAVAILABLE", http.StatusServiceUnavailable}
	gatewayTimeout = problem{"UNAVAILABLE", http.StatusGatewayTimeout}

	// clientGone is read by nobody but the access log, where Caddy's own
	// proxy writes the same.
	clientGone = problem{"UNAVAILABLE", 499}
)

// apiError is a refusal as the client will read it.
type apiError struct {
	problem
	message    string
	retryAfter time.Duration
	allow      string // methods, with unsupported
	detail     any    // as JSON, for whoever may know it
	cause      error  // for the log only
}

func (e *apiError) Error() string {
	if e.cause != nil {
		return e.message + ": " + e.cause.Error()
	}
	return e.message
}

func (e *apiError) Unwrap() error { return e.cause }

func refuse(p problem, format string, args ...any) *apiError {
	return &apiError{problem: p, message: fmt.Sprintf(format, args...)}
}

// retrySoon is what a client is told to wait where upstream did not say.
const retrySoon = 10 * time.Second

// fromUpstream words an upstream's failure for the client. Unknown is the code
// for what was asked for and is not there; limited the one for a rate limit,
// which clients treat differently for manifests and blobs.
func (ex *exchange) fromUpstream(p *repository, err error, unknown, limited problem) *apiError {
	if ex.r.Context().Err() != nil {
		return refuse(clientGone, "the client has left")
	}
	answer := func(problem problem, format string, args ...any) *apiError {
		return &apiError{problem: problem, message: fmt.Sprintf(format, args...), cause: err}
	}
	switch upstream.KindOf(err) {
	case upstream.NameUnknown:
		return answer(nameUnknown, "%s has no repository %s", p.upstream, p.name)
	case upstream.Denied:
		return answer(nameUnknown, "%s has no repository %s, or it is private and the login configured here may not read it", p.upstream, p.name)
	case upstream.ManifestUnknown, upstream.BlobUnknown:
		return answer(unknown, "%s has no %s in the repository %s", p.upstream, ex.route.reference(), p.name)
	case upstream.RateLimited:
		e := answer(limited, "the rate limit of %s is reached; try again later", p.upstream)
		var up *upstream.Error
		e.retryAfter = time.Minute
		if errors.As(err, &up) && up.RetryAfter > 0 {
			e.retryAfter = up.RetryAfter
		}
		return e
	case upstream.Credentials:
		return answer(badGateway, "%s rejected the login configured here; ask the administrator of this proxy", p.upstream)
	case upstream.Invalid:
		return answer(badGateway, "%s sent an invalid response", p.upstream)
	case upstream.Timeout:
		return answer(gatewayTimeout, "%s did not respond in time", p.upstream)
	}
	if errors.Is(err, blobcache.ErrDigestMismatch) {
		return answer(badGateway, "%s sent content that does not match %s", p.upstream, ex.route.reference())
	}
	if errors.Is(err, blobcache.ErrUnconfirmed) {
		return answer(badGateway, "%s did not reliably confirm that it has %s", p.upstream, ex.route.reference())
	}
	if errors.Is(err, pullthrough.ErrTooManyQuestions) {
		return ex.tooBusy(p, "questions", "to", err)
	}
	if errors.Is(err, blobcache.ErrBusy) {
		return ex.tooBusy(p, "downloads", "from", err)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, blobcache.ErrTooSlow) {
		return answer(gatewayTimeout, "%s did not respond in time", p.upstream)
	}
	e := answer(unavailable, "%s cannot be reached", p.upstream)
	e.retryAfter = retrySoon
	return e
}

// writeError is the one place that sends a refusal. Clients read the code and
// the message from the body, so it is never left to an error route.
func writeError(w http.ResponseWriter, r *http.Request, e *apiError) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail"`
	}
	body, err := json.Marshal(struct {
		Errors []entry `json:"errors"`
	}{[]entry{{e.code, e.message, e.detail}}})
	if err != nil {
		panic(err) // strings always marshal
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-transform")
	}
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	if e.status == http.StatusMethodNotAllowed {
		h.Set("Allow", e.allow)
	}
	w.WriteHeader(e.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that has left needs no error
	}
}
