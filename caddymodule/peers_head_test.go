package caddymodule

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestPeersHeads checks that HEAD requests at all nodes for what the first node has are
// answered as by upstream, without a request to it.
func TestPeersHeads(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, 50_000))
	c := startNodes(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	layer, manifest := image.Layers[0], image.Manifest
	c.ranked(layer)[0].pullBlob(layer, 50_000)
	c.ranked(manifest)[0].Get(sitetest.ManifestPath("acme", "team/app", string(manifest)), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	up.Reset()
	size := strconv.Itoa(len(up.RawManifest("team/app", manifest)))
	for _, n := range c.all {
		n.Head(sitetest.BlobPath("acme", "team/app", layer), sitetest.As("alice")).Expect(t, http.StatusOK, "").
			Has(t, "Content-Length", "50000").Has(t, "Docker-Content-Digest", string(layer))
		n.Head(sitetest.ManifestPath("acme", "team/app", string(manifest)), sitetest.As("alice")).Expect(t, http.StatusOK, "").
			Has(t, "Content-Length", size).Has(t, "Content-Type", "application/vnd.oci.image.manifest.v1+json")
	}
	sitetest.ExpectRequests(t, up, "HEAD requests at three nodes", registrytest.Counts{})
}
