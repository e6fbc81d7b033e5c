package caddymodule

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// An upstream that rejects HEAD for content that it has does not fail a pull, of the
// first repository or of the second.
func TestPullFromUpstreamThatRejectsHead(t *testing.T) {
	for _, status := range []int{400, 403, 404, 405, 406, 500} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			up := registrytest.New(t)
			var image registrytest.Image
			for _, repo := range []string{"team/app", "team/copy"} {
				image = up.PutImage(repo, "1", random(1, 5000))
			}
			up.Fail(registrytest.Failure{Method: http.MethodHead, Status: status})
			s := start(t, users("alice"), private("acme", "alice"), hub(up))
			// After an absence, a HEAD that is always wrong must not be trusted.
			s.get(manifestPath("acme", "team/app", "none"), as("alice")).expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
			for _, repo := range []string{"team/app", "team/copy"} {
				pull(t, s, "acme", repo, "1", as("alice"))
				s.get(manifestPath("acme", repo, string(image.Manifest)), as("alice")).expect(t, http.StatusOK, "")
				s.head(blobPath("acme", repo, image.Layers[0]), as("alice")).expect(t, http.StatusOK, "").has(t, "Content-Length", "5000")
			}
			if counts := up.Counts(); counts.BlobGet != 4 || counts.ManifestGet != 3 {
				t.Errorf("got requests %+v, want 4 GETs of blobs, two of them for their size, and 3 of manifests", counts)
			}
		})
	}
}

// A tag that does not exist costs one GET, which counts as a pull. From then on HEAD
// is trusted, also about other tags.
func TestPullOfMissingTagCosts(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("team/app", "1", random(1, 100))
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	missing := func(tag string) {
		t.Helper()
		s.get(manifestPath("acme", "team/app", tag), as("alice")).expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	}
	missing("none")
	costs(t, up, "a missing tag", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
	missing("none")
	costs(t, up, "the same again", registrytest.Counts{ManifestHead: 1})
	pull(t, s, "acme", "team/app", "1", as("alice"))
	up.Reset()
	missing("other")
	costs(t, up, "another one", registrytest.Counts{ManifestHead: 1})
}

// An upstream that answers every request with a web page confirms nothing.
func TestPullFromWebPage(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", random(1, 5000))
	s := start(t, users("alice"), private("red", "alice"), private("blue", "alice"), hub(up))
	pull(t, s, "red", "team/app", "1", as("alice"))
	for name, length := range map[string]int{"another size": 4000, "the right size": 5000} {
		up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set("Content-Length", strconv.Itoa(length))
			_, _ = w.Write(bytes.Repeat([]byte("x"), length))
			return true
		})
		for _, verb := range []string{http.MethodHead, http.MethodGet} {
			for _, path := range []string{
				blobPath("blue", "team/app", image.Layers[0]), manifestPath("blue", "team/app", string(image.Manifest)), manifestPath("blue", "team/app", "1"),
				blobPath("blue", "team/app", digest.FromString("unknown")),
			} {
				if a := s.get(path, as("alice"), method(verb)); a.StatusCode == http.StatusOK && a.err == nil {
					t.Errorf("%s: %s %s: got status 200 with %d bytes, want an error", name, verb, path, len(a.body))
				}
			}
		}
		up.Heal()
	}
	pull(t, s, "blue", "team/app", "1", as("alice"))
}
