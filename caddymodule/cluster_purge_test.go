package caddymodule

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestClusterPurge checks that what a maintainer purges through one node is gone from the
// other one, too, when that looks for purges: it asks upstream again, about lists as well,
// and its disk is freed. Other groups keep what they have.
func TestClusterPurge(t *testing.T) {
	server, up := s3test.New(t), registrytest.New(t)
	image, kept := up.PutImage("library/alpine", "3.20", random(1, 5000)), up.PutImage("team/app", "1", random(2, 5000))
	one, two, both := twoNodes(t, server)
	one.load(both(users("alice"), "group acme {\n maintainers alice\n}", private("other", "alice"), hub(up))...)
	tags := "/v2/acme" + infix + "alpine/tags/list"
	pull(t, one, "acme", "alpine", "3.20", as("alice"))
	pull(t, one, "other", "team/app", "1", as("alice"))
	one.awaitUploads()
	pull(t, two, "acme", "alpine", "3.20", as("alice"))
	pull(t, two, "other", "team/app", "1", as("alice"))
	two.get(tags, as("alice")).expect(t, http.StatusOK, "")
	two.get(manifestPath("acme", "alpine", "missing"), as("alice")).expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")

	one.get("/acme/dependency_proxy/cache", method(http.MethodDelete), as("alice")).expect(t, http.StatusAccepted, "")
	one.awaitUploads()
	for _, q := range quotas.All() {
		q.quotas.LearnPurges(t.Context()) // as each node does every ten seconds
	}
	for _, d := range append(image.Layers, image.Config, image.Manifest) {
		eventually(t, "it has gone from the disk of the other node", func() bool { return !two.isStored(d) })
	}
	up.Reset()
	two.get(tags, as("alice")).expect(t, http.StatusOK, "")
	two.get(manifestPath("acme", "alpine", "missing"), as("alice")).expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	if got := up.Counts(); got.Tags != 1 || got.ManifestHead != 1 {
		t.Errorf("a list, and what was not there: got requests %+v, want one for each", got)
	}
	up.Reset()
	two.get(blobPath("acme", "alpine", image.Layers[0]), as("alice")).expect(t, http.StatusOK, "")
	two.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "")
	if got := up.Counts(); got.BlobHead != 1 || got.ManifestHead != 1 {
		t.Errorf("the purged image: got requests %+v, want one HEAD for the tag and one for the blob", got)
	}
	up.Reset()
	pull(t, two, "other", "team/app", "1", as("alice"))
	expectRequests(t, up, "another group", registrytest.Counts{})
	if !two.isStored(kept.Layers[0]) {
		t.Error("the blob of another group has gone from the disk")
	}
}
