package cluster

import (
	"bytes"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// redirecting is a site that redirects pulls of large blobs to a bucket, and has pulled
// one through the group red.
type redirecting struct {
	*sitetest.Site
	t      *testing.T
	other  *registrytest.Registry // another upstream, which has the blob too
	server *s3test.Server
	layer  digest.Digest
	small  digest.Digest
}

// largeBlob is the size of the smallest blob for which pulls are redirected.
const largeBlob = 64<<20 + 1

// elsewhere makes the registry another host than the bucket.
var elsewhere = sitetest.Host("registry.example.com")

func newRedirecting(t *testing.T) *redirecting {
	t.Helper()
	server, up := s3test.New(t), registrytest.New(t)
	server.SetSecret("secret-of-the-bucket")
	content := bytes.Repeat([]byte("0123456789abcdef"), largeBlob/16+1)[:largeBlob]
	image := up.PutImage("team/app", "1", content, sitetest.Random(2, 100))
	x := &redirecting{sitetest.InBucket(t, server), t, registrytest.New(t), server, image.Layers[0], image.Layers[1]}
	x.other.PutBlob("team/app", content)
	x.Bucket += "\nredirect 60s"
	// The middleware holds back the header of a response until there is a body.
	x.Before = "handle /metrics {\n metrics\n}\nencode gzip"
	x.AddSecrets("X-Amz-Signature=", "X-Amz-Credential=")
	x.Load(sitetest.Users("alice", "bob"), sitetest.Private("red", "alice"), sitetest.Private("blue", "alice"), "group own {\n owners alice\n}", sitetest.Hub(up), sitetest.UpstreamAt("other", x.other.URL()))
	x.expect(x.Get(sitetest.BlobPath("red", "team/app", x.layer), sitetest.As("alice"), elsewhere), http.StatusOK, "the first pull")
	x.awaitUploaded()
	return x
}

// awaitUploaded waits until there is a signed URL of the large blob.
func (x *redirecting) awaitUploaded() {
	x.t.Helper()
	hex := x.layer.Encoded()
	sitetest.Eventually(x.t, "the blob is uploaded", func() bool {
		_, recorded := x.server.Get("cache/verified/sha256/" + hex[:2] + "/" + hex)
		return recorded
	})
}

func (x *redirecting) expect(a sitetest.Answer, status int, what string) {
	x.t.Helper()
	if a.StatusCode != status || a.Err != nil {
		x.t.Errorf("%s: got status %d (%v), want %d", what, a.StatusCode, a.Err, status)
	}
}

// header returns the header of the response to a pull of the large blob through a group.
// Reading each body would take most of the time of the test.
func (x *redirecting) header(group string, changes ...sitetest.RequestOption) sitetest.Answer {
	x.t.Helper()
	response := x.Open(sitetest.BlobPath(group, "team/app", x.layer), append([]sitetest.RequestOption{sitetest.As("alice"), elsewhere}, changes...)...)
	_ = response.Body.Close()
	return sitetest.Answer{Response: response}
}

// expectBlob checks the status of a pull of the large blob through a group.
func (x *redirecting) expectBlob(group string, status int, what string, changes ...sitetest.RequestOption) sitetest.Answer {
	x.t.Helper()
	a := x.header(group, changes...)
	x.expect(a, status, what)
	return a
}

// TestRedirect checks which pulls are redirected to the bucket.
func TestRedirect(t *testing.T) {
	x := newRedirecting(t)
	t.Run("warm", x.testWarm)
	t.Run("requests that are not redirected", x.testServed)
	t.Run("not stored locally", x.testRemote)
	t.Run("bucket fails", x.testBucketFails)
	t.Run("download under way", x.testDownloading)
	t.Run("purge", x.testPurge)
	if logs := x.Logs(); !strings.Contains(logs, "?REDACTED") {
		t.Error("the access log has no redirect, want one without its signature")
	}
}

// testWarm checks the redirect of a warm pull, and that it leads to the content.
func (x *redirecting) testWarm(t *testing.T) {
	const sent = `response_bytes_total{source="redirect",upstream="docker.io"}`
	first := x.Scrape()[sent]
	x.awaitRedirect("red", "that is warm")
	var before map[string]float64
	sitetest.Eventually(t, "the first redirect is counted", func() bool {
		before = x.Scrape()
		return before[sent] == first+largeBlob
	})
	a := x.expectBlob("red", http.StatusTemporaryRedirect, "a warm pull")
	a.Has(t, "Docker-Content-Digest", x.layer.String()).Has(t, "Cache-Control", "private, no-store, no-transform").
		Has(t, "Cache-Status", "dependency-proxy; hit; detail=redirect").Has(t, "Docker-Distribution-Api-Version", "registry/2.0")
	x.ExpectIncrease(before, map[string]float64{
		sent: largeBlob,
		`requests_total{kind="blob",result="hit"}`: 1,
	})
	response, err := sitetest.Client.Get(a.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(x.Finish(response).Data); response.StatusCode != http.StatusOK || got != x.layer {
		t.Errorf("the bucket sent %s with status %d, want %s", got, response.StatusCode, x.layer)
	}
}

// testServed checks requests whose clients cannot be redirected, or must not be.
func (x *redirecting) testServed(t *testing.T) {
	size := strconv.Itoa(largeBlob)
	x.expectBlob("red", http.StatusOK, "HEAD", sitetest.Method(http.MethodHead)).Has(t, "Content-Length", size)
	x.expectBlob("red", http.StatusPartialContent, "a range", sitetest.Header("Range", "bytes=0-")).Has(t, "Content-Length", size)
	x.expectBlob("red", http.StatusOK, "an unknown unit", sitetest.Header("Range", "items=0-"))
	x.expectBlob("red", http.StatusNotModified, "known content", sitetest.Header("If-None-Match", `"`+x.layer.String()+`"`))
	x.expectBlob("red", http.StatusOK, "the host of the bucket", sitetest.Host("127.0.0.1"))
	x.expectBlob("red", http.StatusOK, "a host above the bucket", sitetest.Host("0.0.1"))
	if got := strings.Count(x.Logs(), "clients would send their login there"); got != 1 {
		t.Errorf("the log has %d warnings about the host of the bucket, want one", got)
	}
	x.expectBlob("red", http.StatusForbidden, "somebody else", sitetest.As("bob"))
	x.expectBlob("red", http.StatusUnauthorized, "nobody", func(r *http.Request) { r.Header.Del("Authorization") })
	x.expect(x.Get(sitetest.BlobPath("red", "team/app", x.small), sitetest.As("alice"), elsewhere), http.StatusOK, "a small blob")
	x.expect(x.Get(sitetest.BlobPath("red", "team/app", x.small), sitetest.As("alice"), elsewhere), http.StatusOK, "a small blob again")
	x.expectBlob("blue", http.StatusOK, "a group that is not linked to it")
	x.awaitRedirect("blue", "through a group that is linked to it now")
}

// testRemote checks that a blob is redirected that is only in the bucket.
func (x *redirecting) testRemote(t *testing.T) {
	stored := x.BlobFile(x.layer)
	if err := os.Rename(stored, stored+".away"); err != nil {
		t.Fatal(err)
	}
	x.expectBlob("red", http.StatusTemporaryRedirect, "a blob that is not stored locally")
	if err := os.Rename(stored+".away", stored); err != nil {
		t.Fatal(err)
	}
}

// testBucketFails checks that pulls are served locally while the bucket fails.
func (x *redirecting) testBucketFails(t *testing.T) {
	x.server.Set(s3test.Faults{Down: true})
	x.expect(x.Head(sitetest.BlobPath("red", "team/app", digest.FromString("unknown")), sitetest.As("alice")), http.StatusNotFound, "an unknown blob")
	x.expectBlob("red", http.StatusOK, "a bucket that fails")
	x.server.Set(s3test.Faults{})
	x.awaitRedirect("red", "after the bucket has failed")
}

// awaitRedirect waits until a warm pull through a group is redirected: on a busy machine,
// the bucket may be left alone for a while.
func (x *redirecting) awaitRedirect(group, what string) {
	x.t.Helper()
	sitetest.Eventually(x.t, "a pull is redirected "+what, func() bool {
		return x.header(group).StatusCode == http.StatusTemporaryRedirect
	})
}

// testDownloading checks that a pull is not redirected while the same content is being
// downloaded, here for another upstream.
func (x *redirecting) testDownloading(t *testing.T) {
	goOn, asked := make(chan struct{}), make(chan struct{}, 8)
	x.other.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			asked <- struct{}{}
			<-goOn
		}
		return false
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.expect(x.Get(sitetest.BlobPath("red", "other/team/app", x.layer), sitetest.As("alice"), elsewhere), http.StatusOK, "the download")
	}()
	<-asked
	x.expectBlob("red", http.StatusOK, "during the download")
	close(goOn)
	<-done
	x.awaitRedirect("red", "after the download")
}

// testPurge checks that a group that has purged its cache is not sent to the bucket.
func (x *redirecting) testPurge(t *testing.T) {
	x.Get(sitetest.BlobPath("own", "team/app", x.layer), sitetest.As("alice"), elsewhere)
	x.awaitRedirect("own", "before the purge")
	x.expect(x.Get("/own/dependency_proxy/cache", sitetest.As("alice"), sitetest.Method(http.MethodDelete)), http.StatusAccepted, "the purge")
	x.expectBlob("own", http.StatusOK, "after the purge")
	x.awaitRedirect("red", "through another group after the purge")
}
