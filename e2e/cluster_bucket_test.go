//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestBucketServesNodes pulls an image through one node, and then through two others
// with other clients. They take it from the bucket, and a warm pull asks nobody. A new
// node serves it while upstream is gone.
func TestBucketServesNodes(t *testing.T) {
	bucket := startBucket(t)
	c := startCluster(t, bucket, false, 3)
	first, second, third := c.nodes[0], c.nodes[1], c.nodes[2]
	img := lab.push.index(t, "library/in-bucket", "1", 1<<20, 12<<20)
	mine := loggedInto(t, proxies(c.nodes...)...)
	cranePull(t, mine, first.reference("acme", img), img)
	cold := bucket.requests(t)
	awaitUploads(t, first)
	bucket.await(t, img)
	t.Logf("requests to the bucket for a cold pull of five objects, before and after its uploads: %v, %v", cold, bucket.requests(t))

	c.up.forget()
	for _, pull := range []struct {
		node   *node
		client string
		do     func(*testing.T, *client, string, image)
	}{{second, "podman", podmanPull}, {third, "skopeo", skopeoPull}} {
		client := newClient(t)
		client.run(t, pull.client, "login", "-u", "alice", "-p", password, pull.node.host)
		pull.do(t, client, pull.node.reference("acme", img), img)
	}
	for _, r := range c.up.requests() {
		if r.method == http.MethodGet {
			t.Errorf("upstream was asked for %s, which the bucket has", r.path)
		}
	}
	awaitUploads(t, c.nodes...)
	await(t, func() error { // a node may happen to look whether the bucket is to be swept
		before := bucket.requests(t)
		for _, n := range c.nodes {
			// By digest, since a node asks the bucket about a tag that is no longer fresh.
			cranePull(t, mine, n.name("acme", img)+"@"+img.digest.String(), img)
		}
		after := bucket.requests(t)
		for _, operation := range []string{"GetObject", "PutObject", "HeadObject"} {
			if after[operation] != before[operation] {
				return fmt.Errorf("warm pulls ask the bucket: %v, before %v", after, before)
			}
		}
		return nil
	})

	c.up.stop()
	fourth := c.node(t)
	c.launch(t, fourth)
	late := loggedInto(t, fourth.proxy)
	cranePull(t, late, fourth.reference("acme", img), img)
	token := fourth.login(t, "bob")
	fourth.get(t, token, blobPath("guests", "elsewhere", img.layers[0].String())).wantRefused(t)
	c.wantSound(t)
	c.wantSecretsHidden(t)
}

// wantRefused reports an error if the answer has content.
func (a answer) wantRefused(t *testing.T) {
	t.Helper()
	if a.status < http.StatusBadRequest {
		t.Errorf("answered %d with %d bytes, want a refusal", a.status, len(a.body))
	}
}

// TestNodeKilledBeforeUpload kills a node that has not uploaded anything. Its next
// process uploads all of it, without a pull, and another node serves it.
func TestNodeKilledBeforeUpload(t *testing.T) {
	bucket := startBucket(t)
	c := startCluster(t, bucket, false, 2)
	first, second := c.nodes[0], c.nodes[1]
	mine := loggedInto(t, first.proxy, second.proxy)
	bucket.kill()
	var images []image
	for _, tag := range []string{"1", "2", "3", "4"} {
		img := lab.push.single(t, "library/killed", tag, 1<<20, 70<<10)
		cranePull(t, mine, first.reference("acme", img), img)
		for _, blob := range append(img.blobs(), img.digest.String()) {
			awaitStored(t, first.cache, digest.Digest(blob))
		}
		images = append(images, img)
	}
	first.kill()
	bucket.launch(t)
	c.launch(t, first)
	bucket.await(t, images...)
	awaitUploads(t, first)
	c.up.stop()
	for _, img := range images {
		cranePull(t, mine, second.name("acme", img)+"@"+img.digest.String(), img)
	}
	c.wantSound(t)
}

// TestBucketDamaged overwrites objects. A pull that meets one has the right content all
// the same, and the object is replaced.
func TestBucketDamaged(t *testing.T) {
	bucket := startBucket(t)
	c := startCluster(t, bucket, false, 2)
	first, second := c.nodes[0], c.nodes[1]
	mine := loggedInto(t, first.proxy, second.proxy)
	img := lab.push.single(t, "library/overwritten", "1", 1<<20, 2<<20, 3<<20)
	cranePull(t, mine, first.reference("acme", img), img)
	awaitUploads(t, first)
	bucket.await(t, img)
	for i, damage := range []func(content []byte) []byte{
		func(content []byte) []byte { content[len(content)/2] ^= 1; return content },
		func(content []byte) []byte { return content[:len(content)/2] },
		func(content []byte) []byte { return append(content, "more"...) },
	} {
		bucket.replace(t, img.layers[i], damage(bytes.Clone(bucket.content(t, img.layers[i]))))
	}
	token := second.login(t, "alice")
	second.get(t, token, manifestPath("acme", shortName(img), img.tag)).want(t, http.StatusOK, "")
	for _, layer := range img.layers {
		second.wantBlob(t, token, img, layer.String())
	}
	cranePull(t, mine, second.reference("acme", img), img)
	bucket.await(t, img)
	second.says(t, trouble)
	c.wantSound(t)
}

// wantBlob downloads a blob. A download may break off, as that of a damaged object does
// when the damage is noticed, but not the one after it.
func (p *proxy) wantBlob(t *testing.T, token string, img image, blob string) {
	t.Helper()
	var err error
	for range 2 {
		var got digest.Digest
		if got, err = p.download(token, blobPath("acme", shortName(img), blob)); err == nil {
			same(t, got.String(), blob)
			return
		}
		t.Logf("%s: %v", blob, err)
	}
	t.Errorf("%s: a second download failed: %v", blob, err)
}

// download downloads a blob to its end and returns the digest of what came.
func (p *proxy) download(token, path string) (digest.Digest, error) {
	request, err := http.NewRequest(http.MethodGet, "https://"+p.host+path, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := lab.client().Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return "", errors.New(answer.Status)
	}
	return digest.FromReader(answer.Body)
}
