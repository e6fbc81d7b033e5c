package traces

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
)

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestUntraced checks that a request that is not traced costs no memory, and that its
// context, requests and responses stay as they are.
func TestUntraced(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "a request")
	answer := &http.Response{Body: http.NoBody}
	transport := Transport(roundTripFunc(func(*http.Request) (*http.Response, error) { return answer, nil }), "docker.io")
	request := (&http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: "registry.example.com", Path: "/v2/"}}).WithContext(ctx)
	var r record.Request
	if got := testing.AllocsPerRun(100, func() {
		same, pull := StartPull(ctx, record.Manifest)
		pull.End(&r)
		again, end := StartDirectory(ctx, "gitlab", "role")
		end(nil)
		response, err := transport.RoundTrip(request)
		if same != ctx || again != ctx || response != answer || err != nil {
			t.Errorf("got other values, want the context and the response as they are")
		}
	}); got != 0 {
		t.Errorf("got %v allocations for a request that is not traced, want none", got)
	}
}

// TestTemplateOf checks which paths of upstreams are those of a registry: only these
// are part of spans.
func TestTemplateOf(t *testing.T) {
	for path, want := range map[string]string{
		"/v2/":                               "/v2/",
		"/v2/library/alpine/manifests/3.20":  "/v2/{name}/manifests/{reference}",
		"/docker/v2/a/blobs/sha256:0123":     "/v2/{name}/blobs/{digest}",
		"/v2/a/referrers/sha256:0123":        "/v2/{name}/referrers/{digest}",
		"/v2/a/tags/list":                    "/v2/{name}/tags/list",
		"/token":                             "",
		"/registry/docker/v2/secret-handle/": "",
		"/ghcr1/blobs/sha256:0123":           "",
		"":                                   "",
		"/":                                  "",
	} {
		if got := templateOf(path); got != want {
			t.Errorf("%s: got the template %q, want %q", path, got, want)
		}
	}
}

// TestFailed checks which requests are errors in a trace.
func TestFailed(t *testing.T) {
	for _, row := range []struct {
		result record.Result
		status int
		want   bool
	}{
		{record.Hit, http.StatusOK, false}, {record.Absent, http.StatusNotFound, false}, {record.Canceled, http.StatusOK, false},
		{record.Unavailable, http.StatusServiceUnavailable, true}, {record.RateLimited, http.StatusTooManyRequests, true},
		{record.Error, http.StatusOK, true}, // broken off
		{record.Error, 0, true}, {record.Error, http.StatusBadRequest, false}, {record.Error, http.StatusMethodNotAllowed, false},
	} {
		if got := failed(&record.Request{Result: row.result, Status: row.status}); got != row.want {
			t.Errorf("%v with status %d: got %v, want %v", row.result, row.status, got, row.want)
		}
	}
}

// BenchmarkUntraced measures what the spans of a pull cost that is not traced.
func BenchmarkUntraced(b *testing.B) {
	type key int
	ctx := b.Context()
	for i := range 10 { // as many values as the context of a request of Caddy has
		ctx = context.WithValue(ctx, key(i), i)
	}
	var r record.Request
	for b.Loop() {
		ctx, pull := StartPull(ctx, record.Manifest)
		_, end := StartDirectory(ctx, "gitlab", "lookup")
		end(nil)
		pull.End(&r)
	}
}
