// Package redirect sends clients to an object store for large blobs, by URLs that are
// signed for a while. Anybody who has such a URL can use it, so it must not get into
// caches and logs.
package redirect

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/opencontainers/go-digest"
)

// Source has signed URLs of content. It is implemented by the blobs of a storage with a
// copy in an object store.
type Source interface {
	// SignedURL returns a URL from which anybody can read the content of d, which has
	// this size in bytes, for a while. It returns an error if there is none, since the
	// object store does not have the content, fails, or clients are not to be redirected.
	SignedURL(ctx context.Context, d digest.Digest, size int64) (*url.URL, error)
}

// Understood reports whether the client of a request for a blob can be redirected. It
// must ask for the whole blob, and by HTTP/1.1, since 307 has no meaning before that.
func Understood(r *http.Request) bool {
	return r.Method == http.MethodGet && r.ProtoAtLeast(1, 1) && len(r.Header["Range"]) == 0
}

// Safe reports whether clients of a registry do not send their login on when they are
// redirected to target. Those that use the HTTP client of Go, such as containerd, do so
// for the host of the registry with any port, and for the hosts below it. An object store
// also refuses a request with a login besides the signature. The registry is a host with
// or without a port.
func Safe(target *url.URL, registry string) bool {
	host, _, err := net.SplitHostPort(registry)
	if err != nil {
		host = strings.Trim(registry, "[]")
	}
	from, to := strings.ToLower(host), strings.ToLower(target.Hostname())
	return from != "" && to != from && !strings.HasSuffix(to, "."+from)
}

// note is the body of a redirect (RFC 9110, section 15.4.8). A middleware that waits for
// a body before it sends the header sends both at once.
const note = "The object store has this blob.\n"

var redirectHeaders = http.Header{
	"Cache-Control":  {"private, no-store, no-transform"},
	"Cache-Status":   {"dependency-proxy; hit; detail=redirect"},
	"Content-Length": {strconv.Itoa(len(note))},
	"Content-Type":   {"text/plain; charset=utf-8"},
}

// Send redirects a client to the object store for the content of d. Once the header is
// sent, the signature is removed from it, because Caddy's access log has the headers of
// responses.
func Send(w http.ResponseWriter, d digest.Digest, target *url.URL) {
	h := w.Header()
	for name, value := range redirectHeaders {
		h[name] = value
	}
	h["Docker-Content-Digest"] = []string{d.String()}
	h["Location"] = []string{target.String()}
	w.WriteHeader(http.StatusTemporaryRedirect)
	_, _ = io.WriteString(w, note) // an error means that the client has left
	_ = http.NewResponseController(w).Flush()
	if isSent(w) {
		unsigned := url.URL{Scheme: target.Scheme, Host: target.Host, Path: target.Path, RawQuery: "REDACTED"}
		h["Location"] = []string{unsigned.String()}
	}
}

// isSent reports whether the header of a response is sent as far as Caddy knows. It is
// false if a middleware still holds it back.
func isSent(w http.ResponseWriter) bool {
	var last caddyhttp.ResponseRecorder // that of the access log, if there is one
	for {
		if recorder, ok := w.(caddyhttp.ResponseRecorder); ok {
			if last = recorder; last.Buffered() {
				return false
			}
		}
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return last != nil && last.Status() == http.StatusTemporaryRedirect
		}
		w = wrapper.Unwrap()
	}
}
