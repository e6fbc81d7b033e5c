package caddymodule

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// peerRequests are parts of the lines of the access log about content for other nodes.
var peerRequests = []string{`"uri":"/dependency_proxy/peer/blobs/`, `"uri":"/dependency_proxy/peer/manifests/`}

// asked reports whether a node has asked another one for content.
func (c *peerNodes) asked() bool {
	logs := c.base.Logs()
	return strings.Contains(logs, peerRequests[0]) || strings.Contains(logs, peerRequests[1])
}

// digestOf returns the digest of what a response sends, and its size.
func digestOf(response *http.Response) (d digest.Digest, size int64, err error) {
	defer response.Body.Close()
	digester := digest.Canonical.Digester()
	size, err = io.Copy(digester.Hash(), response.Body)
	return digester.Digest(), size, err
}

// pullBlob pulls a blob of acme's team/app as alice and checks it.
func (n *peerNode) pullBlob(d digest.Digest, size int64) {
	n.T.Helper()
	response := n.Open(sitetest.BlobPath("acme", "team/app", d), sitetest.As("alice"))
	if got, read, err := digestOf(response); response.StatusCode != http.StatusOK || err != nil || got != d || read != size {
		n.T.Errorf("%s: got status %d and %d bytes with the digest %s, error %v; want 200 and %d bytes with %s", n.Host, response.StatusCode, read, got, err, size, d)
	}
}

// TestPeersColdClients checks that 60 clients of three nodes that pull one blob and one
// tag at once cost upstream what one client costs, with a bucket and without, and that
// the bytes between nodes count as those of no client.
func TestPeersColdClients(t *testing.T) {
	const size = 3_000_000
	for name, storage := range map[string]func() string{
		"filesystem": func() string { return "filesystem $CACHE {\nreserve off\n}" },
		"bucket":     func() string { return inPeersBucket(t, s3test.New(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t)
			image := up.PutImage("team/app", "1", sitetest.Random(1, size))
			c := startDifferentNodes(t, storage(), func(int) string {
				return sitetest.Users("alice") + sitetest.Private("acme", "alice") + sitetest.Hub(up)
			})
			sitetest.Concurrently(60, func(i int) { c.all[i%3].pullBlob(image.Layers[0], size) })
			if got := up.Counts(); got.BlobGet != 1 || got.BlobHead != 0 || got.BlobBytes != size {
				t.Errorf("got the requests %+v, want one GET of %d bytes", got, size)
			}
			c.findHandlers() // on a busy machine, a node may not have answered in time
			up.Reset()
			sitetest.Concurrently(60, func(i int) {
				c.all[i%3].Get(sitetest.ManifestPath("acme", "team/app", "1"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
			})
			sitetest.ExpectRequests(t, up, "a tag on three nodes", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
			for _, n := range c.all {
				n.pullBlob(image.Layers[0], size)
				n.Get(sitetest.ManifestPath("acme", "team/app", string(image.Manifest)), sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Cache-Status", "dependency-proxy; hit")
			}
			sitetest.ExpectRequests(t, up, "warm pulls", registrytest.Counts{})
			var served int64
			for _, n := range c.all {
				served += n.handler.cache.usage.Days(t.Context(), "acme", 1)[0].Served
			}
			if manifest := int64(len(up.RawManifest("team/app", image.Manifest))); served != 63*(size+manifest) {
				t.Errorf("got %d bytes that count as served, want those of 63 pulls: %d", served, 63*(size+manifest))
			}
		})
	}
}

// TestPeersOwnerKilled checks that no pull fails when the node that downloads is killed, and
// that one other node goes on in its place.
func TestPeersOwnerKilled(t *testing.T) {
	const size = 3_000_000
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, size))
	d := image.Layers[0]
	c := startNodes(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	order := c.ranked(d)
	release := up.StallBlobs(size / 3)
	var begun atomic.Int64
	go func() {
		// All clients have got a header, and the bytes flow from the owner.
		sitetest.Eventually(t, "all clients wait for bytes", func() bool { return begun.Load() == 40 && up.Counts().BlobGet == 1 })
		order[0].link.Cut()
		sitetest.Eventually(t, "another node asks upstream", func() bool { return up.Counts().BlobGet > 1 })
		release()
	}()
	sitetest.Concurrently(40, func(i int) {
		response := order[1+i%2].Open(sitetest.BlobPath("acme", "team/app", d), sitetest.As("alice"))
		begun.Add(1)
		if got, read, err := digestOf(response); err != nil || got != d {
			t.Errorf("got %d bytes with the digest %s, error %v; want %d with %s", read, got, err, size, d)
		}
	})
	if got := up.Counts(); got.BlobGet > 2 {
		t.Errorf("got %d GETs, want 2 at most", got.BlobGet)
	}
}

// TestPeersOwnerHangs checks that pulls go on without a node that does not answer, and that
// the next ones do not wait for it.
func TestPeersOwnerHangs(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, 50_000), sitetest.Random(2, 50_000), sitetest.Random(3, 50_000))
	c := startNodes(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "downloads {\nstall_timeout 2s\n}"))
	for _, n := range c.all {
		n.link.Hang()
	}
	for _, d := range image.Layers {
		sitetest.Concurrently(30, func(i int) { c.all[i%3].pullBlob(d, 50_000) })
	}
	if got := up.Counts(); got.BlobGet > 9 {
		t.Errorf("got %d GETs, want 9 at most", got.BlobGet)
	}
}

// TestPeersTagMoves checks that a tag that all nodes pull costs one question to upstream per
// window, also after it has moved.
func TestPeersTagMoves(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, 100))
	c := startNodes(t, sitetest.Users("alice"), "group acme {\nmaintainers alice\n}", sitetest.Hub(up))
	pull := func(want digest.Digest, changes ...sitetest.RequestOption) {
		t.Helper()
		for _, n := range c.all {
			n.Get(sitetest.ManifestPath("acme", "team/app", "1"), append(changes, sitetest.As("alice"))...).Expect(t, http.StatusOK, "").
				Has(t, "Docker-Content-Digest", string(want))
		}
	}
	pull(image.Manifest)
	sitetest.ExpectRequests(t, up, "the first window", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
	moved := up.PutImage("team/app", "1", sitetest.Random(2, 100))
	pull(image.Manifest)
	sitetest.ExpectRequests(t, up, "the same window", registrytest.Counts{})
	// A forced question ends the window on the node that is asked, and there only.
	for _, n := range c.all {
		n.Get(sitetest.ManifestPath("acme", "team/app", "1"), sitetest.Header("Cache-Control", "no-cache"), sitetest.As("alice")).Expect(t, http.StatusOK, "").
			Has(t, "Docker-Content-Digest", string(moved.Manifest))
	}
	if got := up.Counts(); got.ManifestGet != 1 || got.ManifestHead > 4 {
		t.Errorf("got the requests %+v, want one GET", got)
	}
}

// TestPeersDifferentUpstreams checks that nodes with another login at the upstream share
// nothing with the others.
func TestPeersDifferentUpstreams(t *testing.T) {
	const size = 50_000
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, size))
	login := sitetest.HubCredentials(t)
	c := startDifferentNodes(t, "filesystem $CACHE {\nreserve off\n}", func(i int) string {
		more := ""
		if i == 2 {
			more = login
		}
		return sitetest.Users("alice") + sitetest.Private("acme", "alice") + sitetest.Hub(up, more)
	})
	for _, n := range c.all {
		n.pullBlob(image.Layers[0], size)
		n.Get(sitetest.ManifestPath("acme", "team/app", "1"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
	sitetest.ExpectRequests(t, up, "the pulls", registrytest.Counts{Ping: 1, ManifestHead: 2, ManifestGet: 2, BlobGet: 2})
}

// TestPeersDenied checks that a client without access causes no request to another node,
// and that nodes provide nothing that upstream does not confirm for the repository, to
// each other's clients.
func TestPeersDenied(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, 5000))
	up.PutBlob("team/other", sitetest.Random(9, 10))
	c := startNodes(t, sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), sitetest.Private("red", "bob"), sitetest.Hub(up))
	for _, n := range c.all {
		n.Get(sitetest.ManifestPath("acme", "team/app", "1"), sitetest.As("bob")).Expect(t, http.StatusForbidden, "DENIED")
		n.Get(sitetest.BlobPath("acme", "team/app", image.Layers[0]), sitetest.As("bob")).Expect(t, http.StatusForbidden, "DENIED")
	}
	if c.asked() {
		t.Error("a client without access has caused a request to another node")
	}
	sitetest.ExpectRequests(t, up, "denied pulls", registrytest.Counts{})
	for _, n := range c.all {
		n.pullBlob(image.Layers[0], 5000)
	}
	if !c.asked() {
		t.Error("no node has asked another one")
	}
	for _, n := range c.all {
		n.Get(sitetest.BlobPath("red", "team/other", image.Layers[0]), sitetest.As("bob")).Expect(t, http.StatusNotFound, "BLOB_UNKNOWN")
	}
}

// TestPeersKeepToTheirLimits checks that a node whose configuration excludes an image neither
// asks upstream for it nor sends it on behalf of a node whose configuration does not.
func TestPeersKeepToTheirLimits(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, 5000))
	c := startDifferentNodes(t, "filesystem $CACHE {\nreserve off\n}", func(i int) string {
		limits := "deny docker.io/team/app"
		if i == 2 {
			limits = ""
		}
		return sitetest.Users("alice") + "group acme {\nmembers alice\n" + limits + "\n}\n" + sitetest.Hub(up)
	})
	n := c.all[2]
	n.pullBlob(image.Layers[0], 5000)
	for _, reference := range []string{"1", string(image.Manifest)} {
		n.Get(sitetest.ManifestPath("acme", "team/app", reference), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
	for i, n := range c.all[:2] {
		if served := n.handler.cache.blobs.Usage(t.Context()); served.Blobs != 0 {
			t.Errorf("node %d has %d blobs of an image that it excludes, want none", i+1, served.Blobs)
		}
	}
}

// TestPeersRefuseClients checks that a token or a login of a client is of no use at the
// paths for other nodes, even for an admin.
func TestPeersRefuseClients(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, 5000))
	c := startNodes(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up), "admins alice")
	n := c.all[0]
	path := "/dependency_proxy/peer/blobs/" + string(image.Layers[0])
	token := n.Token("alice")
	c.base.AddSecrets(token)
	for _, who := range []sitetest.RequestOption{sitetest.As("alice"), sitetest.Bearer(token), sitetest.Bearer("x"), sitetest.Header("X-None", "")} {
		n.Get(path, who).Expect(t, http.StatusUnauthorized, "DENIED")
	}
	sitetest.ExpectRequests(t, up, "refused requests", registrytest.Counts{})
	if logs := c.base.Logs(); strings.Count(logs, `"peer refused"`) == 0 {
		t.Error("the refusals are not in the audit log")
	}
}
