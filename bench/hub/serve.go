package hub

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// ServeHTTP serves the token service, manifests and blobs.
func (h *Hub) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h.mu.Lock()
	h.counts.Requests++
	mode, changed, delay := h.mode, h.changed, h.delay
	h.mu.Unlock()
	wait := time.NewTimer(delay)
	defer wait.Stop()
	switch mode {
	case Silent:
		select {
		case <-changed:
		case <-req.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case Abusive:
		h.count(func(c *Counts) { c.Limited++ })
		http.Error(w, "Too Many Requests", http.StatusTooManyRequests)
		return
	case Healthy:
		select {
		case <-wait.C:
		case <-req.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	const token = "bench"
	if req.URL.Path == "/token" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, token)
		return
	}
	if req.Header.Get("Authorization") != "Bearer "+token {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="bench",scope="repository:bench:pull"`, req.Host))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	const repository = "/v2/bench/"
	switch reference, isManifest := strings.CutPrefix(req.URL.Path, repository+"manifests/"); {
	case isManifest:
		h.serveManifest(w, req, reference)
	case strings.HasPrefix(req.URL.Path, repository+"blobs/"):
		d, o := h.find(strings.TrimPrefix(req.URL.Path, repository+"blobs/"))
		serve(w, req, d, "application/octet-stream", o)
	case req.URL.Path != "/v2/":
		http.NotFound(w, req)
	}
}

// serveManifest serves a manifest within the limit. Like Docker Hub, it counts a GET and
// not a HEAD, and refuses both when nothing is left.
func (h *Hub) serveManifest(w http.ResponseWriter, req *http.Request, reference string) {
	d, o := h.find(reference)
	if o.mediaType == "" {
		http.NotFound(w, req)
		return
	}
	if !h.admit(w.Header(), req.Method == http.MethodGet) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write([]byte(`{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}`))
		return
	}
	serve(w, req, d, o.mediaType, o)
}

// admit counts a request for a manifest, sets the headers of the limit, and reports
// whether the request is within it.
func (h *Hub) admit(header http.Header, pull bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	limit, window := h.options.Limit, h.options.Window
	if h.began.IsZero() || time.Since(h.began) > window {
		h.began, h.pulls = time.Now(), 0
	}
	admitted := limit == 0 || h.pulls < limit
	switch {
	case !admitted:
		h.counts.Limited++
	case pull:
		h.counts.Pulls++
		h.pulls++
	default:
		h.counts.Checks++
	}
	if limit > 0 {
		header["ratelimit-limit"] = []string{fmt.Sprintf("%d;w=%d", limit, int(window.Seconds()))}
		header["ratelimit-remaining"] = []string{fmt.Sprintf("%d;w=%d", limit-h.pulls, int(window.Seconds()))}
		header["docker-ratelimit-source"] = []string{"192.0.2.1"}
	}
	return admitted
}

func serve(w http.ResponseWriter, req *http.Request, d, mediaType string, o object) {
	if o.content == nil {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", d)
	w.Header().Set("ETag", `"`+d+`"`)
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(o.content))
}
