package caddymodule

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestPeersPurge checks that what a maintainer has purged through one node does not come
// back from another one that has not been told: upstream is asked about it again, and a tag
// that has moved has the new image.
func TestPeersPurge(t *testing.T) {
	const size = 5000
	for name, storage := range map[string]func() string{
		"filesystem": func() string { return "filesystem $CACHE {\nreserve off\n}" },
		"bucket":     func() string { return inPeersBucket(t, s3test.New(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t)
			layer := sitetest.Random(1, size)
			image := up.PutImage("team/app", "1", layer)
			c := startDifferentNodes(t, storage(), func(int) string {
				return sitetest.Users("alice") + "\ngroup acme {\nmaintainers alice\n}\n" + sitetest.Hub(up)
			})
			path := sitetest.ManifestPath("acme", "team/app", "1")
			for _, n := range c.all {
				n.pullBlob(image.Layers[0], size)
				n.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Docker-Content-Digest", string(image.Manifest))
			}
			for i, n := range c.all {
				moved := up.PutImage("team/app", "1", layer, sitetest.Random(byte(2+i), 100))
				n.Get("/acme/dependency_proxy/cache", sitetest.Method(http.MethodDelete), sitetest.As("alice")).Expect(t, http.StatusAccepted, "")
				up.Reset()
				n.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Docker-Content-Digest", string(moved.Manifest))
				n.pullBlob(image.Layers[0], size)
				if got := up.Counts(); got.ManifestHead == 0 || got.BlobHead+got.BlobGet == 0 {
					t.Errorf("node %d after its purge: got the requests %+v, want a question about the tag and the blob", i+1, got)
				}
			}
		})
	}
}
