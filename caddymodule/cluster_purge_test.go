package caddymodule

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestClusterPurge checks that what a maintainer purges through one node is gone from the
// other one, too, when that looks for purges: it asks upstream again, about lists as well,
// and its disk is freed. Other groups keep what they have.
func TestClusterPurge(t *testing.T) {
	server, up := s3test.New(t), registrytest.New(t)
	image, kept := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 5000)), up.PutImage("team/app", "1", sitetest.Random(2, 5000))
	one, two, both := sitetest.TwoNodes(t, server)
	one.Load(both(sitetest.Users("alice"), "group acme {\n maintainers alice\n}", sitetest.Private("other", "alice"), sitetest.Hub(up))...)
	tags := "/v2/acme" + infix + "alpine/tags/list"
	sitetest.Pull(t, one, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.Pull(t, one, "other", "team/app", "1", sitetest.As("alice"))
	one.AwaitUploads()
	sitetest.Pull(t, two, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.Pull(t, two, "other", "team/app", "1", sitetest.As("alice"))
	two.Get(tags, sitetest.As("alice")).Expect(t, http.StatusOK, "")
	two.Get(sitetest.ManifestPath("acme", "alpine", "missing"), sitetest.As("alice")).Expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")

	one.Get("/acme/dependency_proxy/cache", sitetest.Method(http.MethodDelete), sitetest.As("alice")).Expect(t, http.StatusAccepted, "")
	one.AwaitUploads()
	for _, q := range quotas.All() {
		q.quotas.LearnPurges(t.Context()) // as each node does every ten seconds
	}
	for _, d := range append(image.Layers, image.Config, image.Manifest) {
		sitetest.Eventually(t, "it has gone from the disk of the other node", func() bool { return !two.IsStored(d) })
	}
	up.Reset()
	two.Get(tags, sitetest.As("alice")).Expect(t, http.StatusOK, "")
	two.Get(sitetest.ManifestPath("acme", "alpine", "missing"), sitetest.As("alice")).Expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	if got := up.Counts(); got.Tags != 1 || got.ManifestHead != 1 {
		t.Errorf("a list, and what was not there: got requests %+v, want one for each", got)
	}
	up.Reset()
	two.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	two.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	if got := up.Counts(); got.BlobHead != 1 || got.ManifestHead != 1 {
		t.Errorf("the purged image: got requests %+v, want one HEAD for the tag and one for the blob", got)
	}
	up.Reset()
	sitetest.Pull(t, two, "other", "team/app", "1", sitetest.As("alice"))
	sitetest.ExpectRequests(t, up, "another group", registrytest.Counts{})
	if !two.IsStored(kept.Layers[0]) {
		t.Error("the blob of another group has gone from the disk")
	}
}
