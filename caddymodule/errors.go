package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// problem is an error code of the OCI distribution specification ("Error
// Codes"), with the HTTP status that it is sent with and the result that the
// record of the request has.
type problem struct {
	code   string
	status int
	result record.Result
}

var (
	unauthorized    = problem{"UNAUTHORIZED", http.StatusUnauthorized, record.Unauthorized}
	denied          = problem{"DENIED", http.StatusForbidden, record.Denied}
	nameInvalid     = problem{"NAME_INVALID", http.StatusBadRequest, record.Error}
	tagInvalid      = problem{"TAG_INVALID", http.StatusBadRequest, record.Error}
	digestInvalid   = problem{"DIGEST_INVALID", http.StatusBadRequest, record.Error}
	nameUnknown     = problem{"NAME_UNKNOWN", http.StatusNotFound, record.Absent}
	manifestUnknown = problem{"MANIFEST_UNKNOWN", http.StatusNotFound, record.Absent}
	blobUnknown     = problem{"BLOB_UNKNOWN", http.StatusNotFound, record.Absent}
	unsupported     = problem{"UNSUPPORTED", http.StatusMethodNotAllowed, record.Error}
	badRequest      = problem{"UNSUPPORTED", http.StatusBadRequest, record.Error}
	tooManyRequests = problem{"TOOMANYREQUESTS", http.StatusTooManyRequests, record.RateLimited}

	// The specification has no code for failures of an upstream. UNAVAILABLE is
	// common, and clients decide on the status.
	badGateway     = problem{"UNAVAILABLE", http.StatusBadGateway, record.Unavailable}
	unavailable    = problem{"UNAVAILABLE", http.StatusServiceUnavailable, record.Unavailable}
	notCached      = problem{"UNAVAILABLE", http.StatusServiceUnavailable, record.Offline}
	gatewayTimeout = problem{"UNAVAILABLE", http.StatusGatewayTimeout, record.Unavailable}

	// clientGone appears only in the access log, with the status that Caddy's
	// reverse proxy uses.
	clientGone = problem{"UNAVAILABLE", 499, record.Canceled}
)

// apiError is an error response.
type apiError struct {
	problem
	message    string
	retryAfter time.Duration
	allow      string // the allowed methods, with unsupported
	detail     any    // JSON, for insiders only
	cause      error  // for the log only
}

func (e *apiError) Error() string {
	if e.cause != nil {
		return e.message + ": " + e.cause.Error()
	}
	return e.message
}

func (e *apiError) Unwrap() error { return e.cause }

// refuse returns an error response with a message for the client.
func refuse(p problem, format string, args ...any) *apiError {
	return &apiError{problem: p, message: fmt.Sprintf(format, args...)}
}

// retrySoon is the Retry-After of failures that are likely to be short.
const retrySoon = 10 * time.Second

// upstreamError returns the response to a pull that an upstream has failed. The
// problem unknown is that of content that does not exist, and limited that of a
// rate limit, which clients treat differently for manifests and for blobs.
func (ex *exchange) upstreamError(repo *repository, err error, unknown, limited problem) *apiError {
	if ex.r.Context().Err() != nil {
		return refuse(clientGone, "the client has closed the connection")
	}
	fail := func(problem problem, format string, args ...any) *apiError {
		return &apiError{problem: problem, message: fmt.Sprintf(format, args...), cause: err}
	}
	failure := &upstream.Error{}
	errors.As(err, &failure)
	switch failure.Kind {
	case upstream.NameUnknown:
		return fail(nameUnknown, "%s has no repository %s", repo.upstream, repo.name)
	case upstream.Denied:
		return fail(nameUnknown, "%s has no repository %s, or it is private and the login configured here may not read it", repo.upstream, repo.name)
	case upstream.ManifestUnknown, upstream.BlobUnknown:
		return fail(unknown, "%s has no %s in the repository %s", repo.upstream, cmp.Or(ex.route.reference(), "list of tags"), repo.name)
	case upstream.RateLimited:
		format := "the rate limit of %s is reached; try again later"
		switch failure.Limit {
		case ratelimit.Pulls:
			format = "the pull limit of %s for the login configured here is reached; try again later"
		case ratelimit.Abuse:
			format = "%s refuses all requests from the address of this proxy for a while, since there were too many; try again later"
		}
		e := fail(limited, format, repo.upstream)
		e.result, e.retryAfter = record.RateLimited, cmp.Or(failure.RetryAfter, time.Minute)
		return e
	case upstream.Credentials:
		return fail(badGateway, "%s rejected the login configured here; ask the administrator of this proxy", repo.upstream)
	case upstream.Withheld:
		return fail(badGateway, "the login configured here for %s cannot be used there; ask the administrator of this proxy", repo.upstream)
	case upstream.Invalid:
		return fail(badGateway, "%s sent an invalid response", repo.upstream)
	case upstream.Refused: // only lists of tags; the code is one of a closed list
		return fail(problem{failure.Code, failure.Status, record.Error}, "%s refused to list the tags of %s in this way; ask for the first page, with a smaller n or none", repo.upstream, repo.name)
	case upstream.Unsupported:
		return fail(unknown, "%s has %s of %s only in Docker's schema 1 format, which is not supported; push the image again with a current tool", repo.upstream, ex.route.reference(), repo.name)
	case upstream.Offline: // 503, because a 404 would say that it does not exist
		return fail(notCached, "%s is offline by configuration, and %s of %s is not cached; ask the administrator of this proxy", repo.upstream, cmp.Or(ex.route.reference(), "the list of tags"), repo.name)
	case upstream.Loop:
		ex.w.Header()["Cache-Status"] = []string{upstream.LoopStatus} // tells other proxies on the way
		return fail(badGateway, "%s leads back to this proxy; its endpoint must be that of another registry", repo.upstream)
	}
	return ex.transferError(repo, err, failure, fail)
}

// transferError returns the response to a pull whose transfer failed, or was not begun. The failure is the error of upstream in err, or an
// empty one. The function fail makes a response whose cause is err.
func (ex *exchange) transferError(repo *repository, err error, failure *upstream.Error, fail func(problem, string, ...any) *apiError) *apiError {
	switch {
	case errors.Is(err, fill.ErrDigestMismatch) || errors.Is(err, fill.ErrSizeMismatch):
		return fail(badGateway, "%s sent content that does not match %s or the size in its manifest", repo.upstream, ex.route.reference())
	case errors.Is(err, fill.ErrUnconfirmed):
		return fail(badGateway, "%s did not reliably confirm that it has %s", repo.upstream, ex.route.reference())
	case errors.Is(err, pullthrough.ErrTooManyQuestions):
		return ex.tooBusy(repo, "questions", "to", err)
	case errors.Is(err, fill.ErrBusy):
		return ex.tooBusy(repo, "downloads", "from", err)
	case failure.Kind == upstream.Timeout || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fill.ErrTooSlow):
		e := fail(gatewayTimeout, "%s did not respond in time", repo.upstream)
		e.retryAfter = max(retrySoon, failure.RetryAfter)
		return e
	}
	e := fail(unavailable, "%s cannot be reached", repo.upstream)
	switch {
	case failure.Status >= http.StatusBadRequest:
		e.message = fmt.Sprintf("%s, or a server that it refers to, answered with HTTP %d; try again later", repo.upstream, failure.Status)
	case failure.Status != 0 || errors.Is(err, io.ErrUnexpectedEOF):
		e.message = repo.upstream + " broke off its response; try again later"
	case failure.Kind == upstream.Other:
		e.message = "content from " + repo.upstream + " could not be fetched; the log of this proxy has the reason"
	}
	e.retryAfter = max(retrySoon, failure.RetryAfter)
	return e
}

// tooBusy rejects a pull that would start one download or ask one question too
// many, and logs that at intervals.
func (ex *exchange) tooBusy(repo *repository, what, preposition string, err error) *apiError {
	repo.busy.Do(func() {
		ex.handler.logger.Warn("too many "+what+" are under way; rejecting pulls of content that is not stored",
			zap.String("upstream", repo.upstream), zap.String("group", ex.route.group), zap.Error(err))
	})
	e := refuse(unavailable, "too many %s %s %s are under way; try again later", what, preposition, repo.upstream)
	e.retryAfter = retrySoon
	return e
}

// sendError sends an error response and logs its cause, which clients must not
// learn. It does not leave the response to Caddy's error routes, because clients
// read the code and the message from the body.
func (ex *exchange) sendError(e *apiError) {
	ex.rec.Result = e.result
	if e.cause != nil {
		level := zap.InfoLevel
		if e.problem == badGateway {
			level = zap.WarnLevel
		}
		detail := zap.Skip()
		if failure := (*upstream.Error)(nil); errors.As(e.cause, &failure) && failure.Detail != "" {
			detail = zap.String("upstream_message", failure.Detail)
		}
		ex.handler.logger.Log(level, "pull failed", zap.String("group", ex.route.group), zap.String("image", ex.route.image),
			zap.Int("status", e.status), zap.Error(e.cause), detail)
	}
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail"`
	}
	h := ex.w.Header()
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-transform")
	}
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	if e.status == http.StatusMethodNotAllowed {
		h.Set("Allow", e.allow)
	}
	ex.sendValue(e.status, struct {
		Errors []entry `json:"errors"`
	}{[]entry{{e.code, e.message, e.detail}}})
}
