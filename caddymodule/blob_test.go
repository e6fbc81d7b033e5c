package caddymodule

import (
	"strconv"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestBlobOfUnknownSize: where upstream does not say how large a blob is, it is
// brought here once to find out, and each group is told the size, by a HEAD or a
// GET, of what its own repository has.
func TestBlobOfUnknownSize(t *testing.T) {
	const size = 300_000
	layer := random(2, size)
	// Beside the one that brings it, a GET is closed at once that asks for a size
	// which nobody knows yet.
	for first, gets := range map[string]int{"head": 2, "get": 1} {
		t.Run(first, func(t *testing.T) {
			up := registrytest.New(t, registrytest.WithoutLength())
			d := string(up.PutBlob("library/alpine", layer))
			s := start(t, users("alice"), private("acme", "alice"), private("other", "alice"), hub(up))
			length := strconv.Itoa(size)
			for _, group := range []string{"acme", "other"} {
				path := blobPath(group, "alpine", d)
				if first == "get" {
					s.get(path, as("alice")).content(t, layer).has(t, "Content-Length", length)
				}
				s.head(path, as("alice")).expect(t, 200, "").has(t, "Content-Length", length)
				s.get(path, as("alice")).content(t, layer).has(t, "Content-Length", length)
				s.awaitStored(d)
			}
			if got := up.Counts().BlobGet; got != gets {
				t.Errorf("%d GETs instead of %d", got, gets)
			}
			up.Reset()
			s.head(blobPath("other", "alpine", d), as("alice")).has(t, "Content-Length", length).has(t, "Cache-Status", "dependency-proxy; hit")
			if counts := up.Counts(); counts != (registrytest.Counts{}) {
				t.Errorf("what is known is asked again: %+v", counts)
			}
			s.head(blobPath("acme", "other", d), as("alice")).expect(t, 404, "")
		})
	}
}
