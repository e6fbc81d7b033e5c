package cluster

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestClusterBucketFaults checks that a node pulls what another one has stored in the
// bucket, whatever the bucket does: from the bucket if it can, else from upstream. Of the
// first image the node knows the records already, of the second one nothing.
func TestClusterBucketFaults(t *testing.T) {
	for name, test := range map[string]struct {
		faults   s3test.Faults
		lose     bool // the objects of content
		upstream bool // the content comes from there
	}{
		"none":          {},
		"down":          {faults: s3test.Faults{Down: true}, upstream: true},
		"slow":          {faults: s3test.Faults{Stalled: true}, upstream: true},
		"stalling":      {faults: s3test.Faults{StalledBody: true}, upstream: true},
		"cutting":       {faults: s3test.Faults{Cut: true}, upstream: true},
		"throttling":    {faults: s3test.Faults{Status: http.StatusServiceUnavailable, Code: "SlowDown"}, upstream: true},
		"denying":       {faults: s3test.Faults{Status: http.StatusForbidden, Code: "AccessDenied"}, upstream: true},
		"lying":         {faults: s3test.Faults{Wrong: true}, upstream: true},
		"losing":        {lose: true, upstream: true},
		"full":          {faults: s3test.Faults{Full: true}},
		"listing later": {faults: s3test.Faults{ListLater: true}},
	} {
		t.Run(name, func(t *testing.T) {
			server, up := s3test.New(t), registrytest.New(t)
			layers := [][]byte{sitetest.Random(1, 200_000), sitetest.Random(2, 200_000)}
			images := []registrytest.Image{up.PutImage("library/known", "1", layers[0]), up.PutImage("library/new", "1", layers[1])}
			one, two, both := sitetest.TwoNodes(t, server)
			one.Load(both(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "downloads {\n stall_timeout 4s\n}"))...)
			sitetest.Pull(t, one, "acme", "known", "1", sitetest.As("alice"))
			sitetest.Pull(t, one, "acme", "new", "1", sitetest.As("alice"))
			one.AwaitUploads()
			two.Head(sitetest.ManifestPath("acme", "known", "1"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
			two.Head(sitetest.BlobPath("acme", "known", images[0].Layers[0]), sitetest.As("alice")).Expect(t, http.StatusOK, "")
			up.Reset()
			server.Set(test.faults)
			heal(t, server)
			if test.lose {
				for _, image := range images {
					for _, d := range []digest.Digest{image.Manifest, image.Layers[0]} {
						server.Lose(sitetest.ObjectOf(d))
					}
				}
			}
			for i, image := range []string{"known", "new"} {
				two.GetWhole(sitetest.ManifestPath("acme", image, "1"), up.RawManifest("library/"+image, images[i].Manifest), sitetest.As("alice"))
				two.GetWhole(sitetest.BlobPath("acme", image, images[i].Layers[0]), layers[i], sitetest.As("alice"))
			}
			if got := up.Counts(); got.BlobGet+got.ManifestGet > 0 != test.upstream || test.upstream && got.BlobGet != 2 {
				t.Errorf("got requests %+v; want content from upstream: %v", got, test.upstream)
			}
		})
	}
}

// heal ends the faults of a bucket before the sites of the test stop, which would wait for
// their uploads to it.
func heal(t *testing.T, server *s3test.Server) {
	t.Cleanup(func() { server.Set(s3test.Faults{}) })
}

// TestClusterBucketIsLeftAlone checks that a bucket that does not answer is not asked by
// each pull, which would have to wait for it.
func TestClusterBucketIsLeftAlone(t *testing.T) {
	server, up := s3test.New(t), registrytest.New(t)
	const images = 20
	var layers [images][]byte
	for i := range images {
		layers[i] = sitetest.Random(byte(i), 5000)
		up.PutImage(fmt.Sprintf("library/app%d", i), "1", layers[i])
	}
	one, two, both := sitetest.TwoNodes(t, server)
	one.Load(both(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "downloads {\n stall_timeout 4s\n}"))...)
	server.Set(s3test.Faults{Stalled: true})
	heal(t, server)
	before := server.Requests(http.MethodGet)
	for i, layer := range layers {
		image := fmt.Sprintf("app%d", i)
		two.Get(sitetest.ManifestPath("acme", image, "1"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
		two.Get(sitetest.BlobPath("acme", image, digest.FromBytes(layer)), sitetest.As("alice")).Content(t, layer)
	}
	// One question for each pause, each of which is longer than the last one.
	if got := server.Requests(http.MethodGet) - before; got == 0 || got > images/2 {
		t.Errorf("got %d requests that read from the bucket for %d cold images, want one for each pause", got, images)
	}
}
