package caddymodule

import (
	"strconv"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// If upstream does not tell the size of a blob, the blob is downloaded once to learn
// it. Each group then gets the size by HEAD and by GET if its own repository contains
// the blob.
func TestPullBlobOfUnknownSize(t *testing.T) {
	const size = 300_000
	layer := random(2, size)
	// Beside the GET that downloads the blob, a HEAD for an unknown size makes one
	// that is closed at once.
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
				t.Errorf("got %d GETs, want %d", got, gets)
			}
			up.Reset()
			s.head(blobPath("other", "alpine", d), as("alice")).has(t, "Content-Length", length).has(t, "Cache-Status", "dependency-proxy; hit")
			if counts := up.Counts(); counts != (registrytest.Counts{}) {
				t.Errorf("got requests %+v for a known size, want none", counts)
			}
			s.head(blobPath("acme", "other", d), as("alice")).expect(t, 404, "")
		})
	}
}
