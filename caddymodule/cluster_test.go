package caddymodule

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestClusterPull checks that a node serves an image that another one has pulled from
// the bucket, without a request to upstream, as a hit, and what that costs in requests to
// the bucket.
func TestClusterPull(t *testing.T) {
	server, up := s3test.New(t), registrytest.New(t)
	layer := random(1, 300_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	manifest := up.RawManifest("library/alpine", image.Manifest)
	one, two, both := twoNodes(t, server)
	one.before = "handle /metrics {\n metrics\n}"
	one.load(both(users("alice", "bob"), private("acme", "alice"), private("other", "bob"), hub(up))...)
	pull(t, one, "acme", "alpine", "3.20", as("alice"))
	one.awaitUploads()
	up.Reset()
	before, gets, others := one.scrape(), server.Requests(http.MethodGet), server.Requests(http.MethodPut)+server.Requests(http.MethodHead)

	two.get(manifestPath("acme", "alpine", "3.20"), as("alice")).content(t, manifest).has(t, "Cache-Status", "dependency-proxy; hit")
	two.get(blobPath("acme", "alpine", image.Layers[0]), as("alice")).content(t, layer).has(t, "Cache-Status", "dependency-proxy; hit")
	two.get(blobPath("acme", "alpine", image.Config), as("alice")).expect(t, http.StatusOK, "").has(t, "Cache-Status", "dependency-proxy; hit")
	two.awaitStored(string(image.Manifest), string(image.Layers[0]), string(image.Config))
	one.awaitUploads()
	expectRequests(t, up, "a pull of what is in the bucket", registrytest.Counts{})
	all := float64(len(manifest) + len(layer) + len(up.RawBlob("library/alpine", image.Config)))
	one.expectIncrease(before, map[string]float64{`response_bytes_total{source="replica",upstream="docker.io"}`: all})
	// The ref, three links and three contents.
	if got := server.Requests(http.MethodGet) - gets; got != 7 {
		t.Errorf("a cold pull of three objects: got %d requests that read from the bucket, want 7", got)
	}
	if got := server.Requests(http.MethodPut) + server.Requests(http.MethodHead) - others; got != 0 {
		t.Errorf("a cold pull: got %d requests that write to the bucket or ask for it, want none", got)
	}
	one.awaitAudit("the hit", func(line map[string]any) bool {
		return line["event"] == "pull" && line["result"] == "hit" && line["account"] == "alice" && line["digest"] == string(image.Manifest)
	})

	requests := server.Requests("")
	for range 3 {
		pull(t, two, "acme", "alpine", "3.20", as("alice"))
	}
	if got := server.Requests("") - requests; got != 0 {
		t.Errorf("warm pulls: got %d requests to the bucket, want none", got)
	}
	// What one group has is not a capability of another one, on any node.
	two.get(blobPath("other", "alpine", image.Layers[0]), as("bob")).content(t, layer)
	two.get(blobPath("acme", "alpine", image.Layers[0]), as("bob")).expect(t, http.StatusForbidden, "DENIED")
	expectRequests(t, up, "another group", registrytest.Counts{BlobHead: 1})
}
