package upstream

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// maxErrorBody is the part of an error response in bytes that is read for its code.
const maxErrorBody = 64 << 10

// codeKinds maps the error codes of distribution-spec v1.1 that are more specific
// than a status to kinds.
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

// statusError converts a response with an unexpected status to an error, and
// closes it.
func (r *Registry) statusError(c *call, resp *response) *Error {
	content := errorContent(resp.Response)
	code, detail := errorCode(content)
	kind, message := classify(c, resp, code)
	limit := ratelimit.Unlimited
	if kind == RateLimited {
		limit = ratelimit.LimitOf(resp.Header, code, content)
		message = limit.Message()
	}
	if code != "" {
		message += ": " + code
	}
	e := r.newError(c, kind, resp.StatusCode, message)
	e.RetryAfter = header.RetryAfter(resp.Header, r.now())
	e.Code, e.Detail = code, loggable(detail, resp.Request)
	e.Limit, e.own, e.head = limit, !resp.foreign, c.method == http.MethodHead
	return e
}

// classify returns the kind and the message for a status and an error code, which
// is "" if the response had none.
func classify(c *call, resp *response, code string) (Kind, string) {
	kind, known := codeKinds[code]
	switch status := resp.StatusCode; {
	case status == http.StatusTooManyRequests || known && kind == RateLimited:
		return RateLimited, ""
	case reportsLoop(resp.Response):
		return Loop, "the request came back to a proxy that it had passed"
	case status >= 500:
		return Unavailable, "server error"
	case status == http.StatusRequestTimeout:
		return Timeout, "request timeout"
	case resp.foreign && resp.anonymous == nil && (status == http.StatusUnauthorized || status == http.StatusForbidden):
		// The storage rejects the registry's redirect: an expired signature.
		return Unavailable, "access denied after a redirect"
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusUnavailableForLegalReasons:
		return Denied, "access denied; the repository does not exist or is private"
	case status == http.StatusNotFound || status == http.StatusGone:
		if known {
			return kind, "not found"
		}
		return c.notFound, "not found"
	case status == http.StatusBadRequest && known:
		return kind, "bad request"
	}
	return Invalid, "unexpected status"
}

// errorContent reads the body of an error response, or a part of it, and closes it. It
// returns nil if the body cannot be read.
func errorContent(resp *http.Response) []byte {
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err == nil {
		content, err = header.Decode(content, header.ContentCoding(resp), maxErrorBody)
	}
	if err != nil {
		return nil
	}
	return content
}

// errorCode returns the first code in the body of an error response (distribution-spec
// v1.1, "Error Codes") and its message, which is free text, or "".
func errorCode(content []byte) (code, message string) {
	var response struct {
		Errors []struct {
			Code    string `json:"code"`
			Message any    `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(content, &response) != nil || len(response.Errors) == 0 {
		return "", ""
	}
	message, _ = response.Errors[0].Message.(string)
	code = response.Errors[0].Code
	if len(code) > 40 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
		return "", message
	}
	return code, message
}
