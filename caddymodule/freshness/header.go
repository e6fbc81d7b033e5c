package freshness

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
)

// cacheStatus has the values of Cache-Status (RFC 9211). That of a stale answer is
// followed by the reason.
var cacheStatus = [...][]string{
	pullthrough.Hit:         {"dependency-proxy; hit"},
	pullthrough.Miss:        {"dependency-proxy; fwd=miss"},
	pullthrough.Joined:      {"dependency-proxy; fwd=miss; collapsed"},
	pullthrough.Revalidated: {"dependency-proxy; fwd=stale; fwd-status=200"},
	pullthrough.Stale:       {"dependency-proxy; fwd=stale; detail="},
}

// reasons explain stale answers to users. $ stands for the upstream.
var reasons = map[pullthrough.Reason]string{
	pullthrough.Slow:        "$ takes long to answer",
	pullthrough.Unreachable: "$ cannot be reached, or fails",
	pullthrough.TimedOut:    "$ does not answer",
	pullthrough.RateLimited: "the rate limit of $ is reached, or nearly",
	pullthrough.NotFound:    "$ does not have it any more",
	pullthrough.Denied:      "$ denies access to it, or has deleted it",
	pullthrough.Login:       "$ does not accept the login that is configured for it",
	pullthrough.Invalid:     "$ sends invalid answers",
	pullthrough.Offline:     "$ is offline by configuration",
	pullthrough.Busy:        "too many questions to $ are in progress",
}

// SetHeader sets the headers of a response that say where the answer comes from:
// Cache-Status, Age (RFC 9111, section 5.1) if it is known when the upstream last
// confirmed it, and for a stale answer a Warning (distribution-spec v1.1, "Warnings").
// Without a tag, the answer is a list, or content by digest, which is never stale.
func SetHeader(h http.Header, o pullthrough.Origin, upstream, image, tag string) {
	status := cacheStatus[o.Status]
	if o.Status == pullthrough.Stale {
		status = []string{status[0] + string(o.Reason)}
		h["Warning"] = []string{`299 - "` + warning(o, upstream, image, tag) + `"`}
	}
	h["Cache-Status"] = status
	if o.Status != pullthrough.Miss && !o.Checked.IsZero() {
		h["Age"] = []string{strconv.FormatInt(max(0, int64(time.Since(o.Checked)/time.Second)), 10)}
	}
}

// warning returns the text of a warning, which needs no quoting: names and tags have
// no such characters. It names the time of the last confirmation and not the age,
// because clients should show equal warnings once.
func warning(o pullthrough.Origin, upstream, image, tag string) string {
	object := image + ":" + tag
	if tag == "" {
		object = "the list of " + image
	}
	reason := reasons[o.Reason]
	if reason == "" {
		reason = "$ could not be asked about it"
	}
	text := object + " may be out of date: " + strings.ReplaceAll(reason, "$", upstream)
	if o.Checked.IsZero() {
		return text
	}
	return text + " (last confirmed at " + o.Checked.UTC().Format(time.RFC3339) + ")"
}

// WantsRefresh reports whether the header of a request has the directive no-cache of
// Cache-Control (RFC 9111, section 5.2.1.4).
func WantsRefresh(h http.Header) bool {
	for _, line := range h["Cache-Control"] {
		for directive := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(directive), "no-cache") {
				return true
			}
		}
	}
	return false
}
