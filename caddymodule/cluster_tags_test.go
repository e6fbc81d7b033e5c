package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestClusterLearnsTags checks that a node whose tag is not fresh learns from the bucket
// what another node has confirmed, also that the tag has moved, and asks upstream itself
// if the bucket does not help. It keeps the image that it has if it cannot get the new one.
func TestClusterLearnsTags(t *testing.T) {
	for name, test := range map[string]struct {
		moves  bool
		faults s3test.Faults // while the second node is asked
		lost   bool          // the bucket has lost the new image, and upstream is down
		status string
		want   registrytest.Counts
	}{
		"confirmed": {status: "hit"},
		"moved":     {moves: true, status: "hit"},
		"no bucket": {faults: s3test.Faults{Down: true}, status: "fwd=stale; fwd-status=200", want: registrytest.Counts{ManifestHead: 1}},
		"lost":      {moves: true, lost: true, status: "fwd=stale; detail=unreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			server, up := s3test.New(t), registrytest.New(t)
			one, two, both := sitetest.TwoNodes(t, server)
			one.Load(both(sitetest.Users("alice"), "group acme {\n maintainers alice\n}", sitetest.Hub(up))...)
			scope := runningHandler(t).scopeOf("docker.io", "acme", "library/alpine")
			path := sitetest.ManifestPath("acme", "alpine", "3.20")
			image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 5000))
			served := up.RawManifest("library/alpine", image.Manifest)
			sitetest.Pull(t, one, "acme", "alpine", "3.20", sitetest.As("alice"))
			one.AwaitUploads()
			two.Get(path, sitetest.As("alice")).Content(t, served)
			if test.moves {
				image = up.PutImage("library/alpine", "3.20", sitetest.Random(2, 5000))
				if !test.lost {
					served = up.RawManifest("library/alpine", image.Manifest)
				}
			}
			outdate(one, scope, "3.20", true)
			one.Get(path, sitetest.As("alice"), sitetest.Header("Cache-Control", "no-cache")).Expect(t, http.StatusOK, "")
			one.AwaitUploads()
			outdate(two, scope, "3.20", false)
			up.Reset()
			server.Set(test.faults)
			if test.lost {
				server.Lose(sitetest.ObjectOf(image.Manifest))
				up.Fail(registrytest.Failure{Status: http.StatusServiceUnavailable})
			}
			a := two.Get(path, sitetest.As("alice")).Content(t, served)
			if got := a.Header.Get("Cache-Status"); !strings.HasPrefix(got, "dependency-proxy; "+test.status) {
				t.Errorf("got Cache-Status %q, want %q", got, test.status)
			}
			if test.lost {
				return
			}
			sitetest.ExpectRequests(t, up, "the second node", test.want)
			reads := server.Requests(http.MethodGet)
			two.Get(path, sitetest.As("alice")).Content(t, served).Has(t, "Cache-Status", "dependency-proxy; hit")
			if got := server.Requests(http.MethodGet) - reads; got != 0 {
				t.Errorf("a fresh tag: got %d requests that read from the bucket, want none", got)
			}
		})
	}
}
