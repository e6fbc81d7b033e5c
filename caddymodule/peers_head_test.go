package caddymodule

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestPeersHeads checks that HEAD requests at all nodes, for what the first node has, cost
// upstream nothing and tell what it tells.
func TestPeersHeads(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", random(1, 50_000))
	c := startNodes(t, users("alice"), private("acme", "alice"), hub(up))
	layer, manifest := image.Layers[0], image.Manifest
	c.ranked(layer)[0].pullBlob(layer, 50_000)
	c.ranked(manifest)[0].get(manifestPath("acme", "team/app", string(manifest)), as("alice")).expect(t, http.StatusOK, "")
	up.Reset()
	size := strconv.Itoa(len(up.RawManifest("team/app", manifest)))
	for _, n := range c.all {
		n.head(blobPath("acme", "team/app", layer), as("alice")).expect(t, http.StatusOK, "").
			has(t, "Content-Length", "50000").has(t, "Docker-Content-Digest", string(layer))
		n.head(manifestPath("acme", "team/app", string(manifest)), as("alice")).expect(t, http.StatusOK, "").
			has(t, "Content-Length", size).has(t, "Content-Type", "application/vnd.oci.image.manifest.v1+json")
	}
	expectRequests(t, up, "HEAD requests at three nodes", registrytest.Counts{})
}
