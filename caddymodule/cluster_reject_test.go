package caddymodule

import (
	"bytes"
	"fmt"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestClusterRejected checks that a configuration with another bucket and other peers that
// is rejected, here because a later handler is invalid, leaves no cache and no goroutine of
// theirs, and that the site goes on with its own ones.
func TestClusterRejected(t *testing.T) {
	server, up := s3test.New(t), registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 5000))
	s := sitetest.InBucket(t, server)
	peers := "peers {\n to 127.0.0.1:%d\n transport http {\n tls_server_name " + sitetest.ClusterHost + "\n }\n}"
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up)}
	s.Load(append(lines, fmt.Sprintf(peers, 1))...)
	before, cluster := caches.All(), runningHandler(t).cluster
	const keeping = 4 // a cache, its quotas, a bucket and a list of nodes
	sitetest.Eventually(t, "the goroutines of the configuration run", func() bool { return keepers(t) == keeping })
	bucket := s.Bucket
	s.Bucket = strings.Replace(bucket, "prefix cache", "prefix other", 1)
	s.Before = "handle_errors {\n header X \"(\" y\n}"
	for range 3 {
		if err := s.TryLoad(append(lines, fmt.Sprintf(peers, 2))...); err == nil || !strings.Contains(err.Error(), "missing closing )") {
			t.Fatalf("got %v, want that the expression of the later handler is invalid", err)
		}
	}
	s.Bucket, s.Before = bucket, ""
	if got := runningHandler(t); got.cluster != cluster || !slices.Equal(caches.All(), before) {
		t.Errorf("got other caches or nodes than before: %v", caches.All())
	}
	sitetest.Eventually(t, "the goroutines of the rejected configurations have ended", func() bool { return keepers(t) == keeping })
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	s.AwaitUploads()
	for _, key := range server.Keys() {
		if strings.HasPrefix(key, "other/") {
			t.Errorf("the rejected configuration has written %s", key)
		}
	}
}

// keepers returns the number of goroutines that keep caches, buckets and lists of nodes.
func keepers(t *testing.T) int {
	t.Helper()
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 2); err != nil {
		t.Fatal(err)
	}
	n := 0
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		for _, name := range []string{"peers.(*Cluster).keep(", "bucket.(*Store).Keep(", "blobcache.(*Cache).Keep(", "blobcache.(*Quotas).Keep("} {
			if strings.Contains(stack, name) {
				n++
				break
			}
		}
	}
	return n
}
