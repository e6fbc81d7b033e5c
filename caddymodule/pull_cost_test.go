package caddymodule

import (
	"fmt"
	"net/http"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestPullCost checks that a pull makes no more requests to upstream than
// necessary, from a cold and from a warm cache.
func TestPullCost(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 50_000), sitetest.Random(2, 50_000))
	lines := []string{sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), sitetest.Private("other", "bob"), sitetest.Hub(up)}
	s := sitetest.Start(t, lines...)
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.ExpectRequests(t, up, "the first pull", registrytest.Counts{ManifestHead: 1, ManifestGet: 1, BlobGet: 3})
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.Pull(t, s, "acme", "docker.io/library/alpine", "3.20", sitetest.As("alice"))
	sitetest.ExpectRequests(t, up, "a second pull", registrytest.Counts{})
	sitetest.Pull(t, s, "other", "alpine", "3.20", sitetest.As("bob"))
	sitetest.ExpectRequests(t, up, "another group's first pull", registrytest.Counts{ManifestHead: 1, BlobHead: 3})
	s.Load(lines...)
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.ExpectRequests(t, up, "a pull after a reload", registrytest.Counts{})
	s.Restart(lines...)
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.ExpectRequests(t, up, "a pull after a restart", registrytest.Counts{})
}

// TestManifestCost checks that requests of manifests, which upstreams count,
// are not repeated.
func TestManifestCost(t *testing.T) {
	up := registrytest.New(t)
	a, b := up.PutImage("library/alpine", "a", sitetest.Random(1, 10)), up.PutImage("library/alpine", "b", sitetest.Random(2, 10))
	index := up.PutIndex("library/alpine", "multi", a, b)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	path := func(reference digest.Digest) string {
		return sitetest.ManifestPath("acme", "alpine", string(reference))
	}
	for _, step := range []struct {
		method string
		path   string
		want   registrytest.Counts
	}{
		{http.MethodHead, path("multi"), registrytest.Counts{ManifestHead: 1}},
		{http.MethodGet, path(index), registrytest.Counts{ManifestGet: 1}},
		{http.MethodGet, path("multi"), registrytest.Counts{}},
		{http.MethodHead, path(index), registrytest.Counts{}},
		{http.MethodGet, path(a.Manifest), registrytest.Counts{ManifestGet: 1}}, // a child, named by the index only
		{http.MethodHead, path(a.Manifest), registrytest.Counts{}},
		{http.MethodHead, path(b.Manifest), registrytest.Counts{ManifestHead: 1}},
		{http.MethodHead, path("b"), registrytest.Counts{ManifestHead: 1}},
		{http.MethodGet, path(b.Manifest), registrytest.Counts{ManifestGet: 1}},
		{http.MethodGet, path("b"), registrytest.Counts{}},
		{http.MethodGet, path("a"), registrytest.Counts{ManifestHead: 1}},
	} {
		s.Get(step.path, sitetest.As("alice"), sitetest.Method(step.method)).Expect(t, http.StatusOK, "")
		sitetest.ExpectRequests(t, up, step.method+" "+step.path, step.want)
	}
}

// TestManifestMemory bounds what a request for a cached manifest allocates, with all that
// is counted and logged about it. The collector of garbage takes its share of the time.
func TestManifestMemory(t *testing.T) {
	const requests, maxObjects, maxBytes = 1000, 31, 3600 // some 400 bytes are the race detector's
	h, request := warmManifest(t)
	type prepared struct {
		w *discardWriter
		r *http.Request
	}
	var all []prepared
	for range requests {
		w, r := request()
		all = append(all, prepared{w, r})
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, p := range all {
		if err := h.ServeHTTP(p.w, p.r, nil); err != nil || p.w.status != http.StatusOK {
			t.Fatalf("got status %d and error %v, want 200", p.w.status, err)
		}
	}
	runtime.ReadMemStats(&after)
	objects, bytes := (after.Mallocs-before.Mallocs)/requests, (after.TotalAlloc-before.TotalAlloc)/requests
	if objects > maxObjects || bytes > maxBytes {
		t.Errorf("a request for a cached manifest: got %d allocations of %d bytes, want at most %d of %d", objects, bytes, maxObjects, maxBytes)
	}
}

// TestConcurrentPullsShareRequests checks that concurrent requests of the same
// content make one request to upstream.
func TestConcurrentPullsShareRequests(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 500_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	token := s.Token("alice")
	for i := range 20 { // because the race window is small
		name := fmt.Sprintf("image%d", i)
		image := up.PutImage("library/"+name, "3.20", []byte(name))
		sitetest.Concurrently(20, func(int) {
			s.Get(sitetest.ManifestPath("acme", name, "3.20"), sitetest.Bearer(token)).Content(t, up.RawManifest("library/"+name, image.Manifest))
		})
		sitetest.ExpectRequests(t, up, "20 manifests at once", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
	}
	sitetest.Concurrently(20, func(i int) {
		if i%4 == 0 {
			a := s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.Bearer(token), sitetest.Header("Range", "bytes=400000-400099"))
			if a.StatusCode != http.StatusPartialContent || string(a.Data) != string(layer[400_000:400_100]) {
				t.Errorf("range: got %d with %d bytes, error %v; want 206 with 100 bytes", a.StatusCode, len(a.Data), a.Err)
			}
			return
		}
		s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.Bearer(token)).Content(t, layer)
	})
	sitetest.ExpectRequests(t, up, "20 blobs at once", registrytest.Counts{BlobGet: 1})
}

// TestMovedTag checks that upstream is asked about a tag again when it is no
// longer fresh, and that the old image can still be pulled by digest.
func TestMovedTag(t *testing.T) {
	up := registrytest.New(t)
	first := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	fresh := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up)}
	stale := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "fresh_for 1ns")}
	s := sitetest.Start(t, fresh...)
	tag := sitetest.ManifestPath("acme", "alpine", "3.20")
	expect := func(image registrytest.Image, status string) {
		t.Helper()
		s.Get(tag, sitetest.As("alice")).Has(t, "Cache-Status", status).Content(t, up.RawManifest("library/alpine", image.Manifest))
		s.Head(tag, sitetest.As("alice")).Has(t, "Docker-Content-Digest", string(image.Manifest))
	}
	expect(first, "dependency-proxy; fwd=miss")
	second := up.PutImage("library/alpine", "3.20", sitetest.Random(2, 1000))
	expect(first, "dependency-proxy; hit")
	s.Load(stale...)
	up.Reset()
	expect(second, "dependency-proxy; fwd=stale; fwd-status=200")
	sitetest.ExpectRequests(t, up, "a tag that has moved", registrytest.Counts{ManifestHead: 2, ManifestGet: 1})
	expect(second, "dependency-proxy; fwd=stale; fwd-status=200")
	sitetest.ExpectRequests(t, up, "a tag that has not", registrytest.Counts{ManifestHead: 2})

	// Moved to an image that upstream does not serve: the old one can be
	// pulled.
	third := up.PutImage("library/alpine", "3.20", sitetest.Random(3, 1000))
	up.Fail(registrytest.Failure{Op: registrytest.OpManifest, Method: http.MethodGet, Status: http.StatusTooManyRequests})
	expect(second, "dependency-proxy; fwd=stale; detail=rate-limited")
	up.Heal()
	s.Restart(stale...) // a while later
	expect(third, "dependency-proxy; fwd=stale; fwd-status=200")

	// Deleted upstream: cached images stay.
	content := up.RawManifest("library/alpine", third.Manifest)
	up.DeleteRepository("library/alpine")
	for _, path := range []string{tag, sitetest.ManifestPath("acme", "alpine", string(first.Manifest)), sitetest.ManifestPath("acme", "alpine", string(third.Manifest))} {
		s.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
	s.Get(tag, sitetest.As("alice")).Has(t, "Cache-Status", "dependency-proxy; fwd=stale; detail=not-found").Content(t, content)
}
