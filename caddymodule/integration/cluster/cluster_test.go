package cluster

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestClusterPull checks that a node serves an image that another one has pulled from
// the bucket, without a request to upstream, as a hit, and what that costs in requests to
// the bucket.
func TestClusterPull(t *testing.T) {
	server, up := s3test.New(t), registrytest.New(t)
	layer := sitetest.Random(1, 300_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	manifest := up.RawManifest("library/alpine", image.Manifest)
	one, two, both := sitetest.TwoNodes(t, server)
	one.Before = "handle /metrics {\n metrics\n}"
	one.Load(both(sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), sitetest.Private("other", "bob"), sitetest.Hub(up))...)
	sitetest.Pull(t, one, "acme", "alpine", "3.20", sitetest.As("alice"))
	one.AwaitUploads()
	up.Reset()
	before, gets, others := one.Scrape(), server.Requests(http.MethodGet), server.Requests(http.MethodPut)+server.Requests(http.MethodHead)

	two.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Content(t, manifest).Has(t, "Cache-Status", "dependency-proxy; hit")
	two.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice")).Content(t, layer).Has(t, "Cache-Status", "dependency-proxy; hit")
	two.Get(sitetest.BlobPath("acme", "alpine", image.Config), sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Cache-Status", "dependency-proxy; hit")
	two.AwaitStored(string(image.Manifest), string(image.Layers[0]), string(image.Config))
	one.AwaitUploads()
	sitetest.ExpectRequests(t, up, "a pull of what is in the bucket", registrytest.Counts{})
	all := float64(len(manifest) + len(layer) + len(up.RawBlob("library/alpine", image.Config)))
	one.ExpectIncrease(before, map[string]float64{`response_bytes_total{source="replica",upstream="docker.io"}`: all})
	// The ref, three links and three contents.
	if got := server.Requests(http.MethodGet) - gets; got != 7 {
		t.Errorf("a cold pull of three objects: got %d requests that read from the bucket, want 7", got)
	}
	if got := server.Requests(http.MethodPut) + server.Requests(http.MethodHead) - others; got != 0 {
		t.Errorf("a cold pull: got %d requests that write to the bucket or ask for it, want none", got)
	}
	one.AwaitAudit("the hit", func(line map[string]any) bool {
		return line["event"] == "pull" && line["result"] == "hit" && line["account"] == "alice" && line["digest"] == string(image.Manifest)
	})

	requests := server.Requests("")
	for range 3 {
		sitetest.Pull(t, two, "acme", "alpine", "3.20", sitetest.As("alice"))
	}
	if got := server.Requests("") - requests; got != 0 {
		t.Errorf("warm pulls: got %d requests to the bucket, want none", got)
	}
	// What one group has is not a capability of another one, on any node.
	two.Get(sitetest.BlobPath("other", "alpine", image.Layers[0]), sitetest.As("bob")).Content(t, layer)
	two.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("bob")).Expect(t, http.StatusForbidden, "DENIED")
	sitetest.ExpectRequests(t, up, "another group", registrytest.Counts{BlobHead: 1})
}
