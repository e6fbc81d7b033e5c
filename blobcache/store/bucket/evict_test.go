package bucket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// onFullDisk keeps a cache in the store of a node until the test ends, on a disk that has
// no room. It returns a function that returns why content was evicted.
func onFullDisk(t *testing.T, n *node) (why func(d digest.Digest) blobcache.Reason) {
	t.Helper()
	var mu sync.Mutex
	reasons := make(map[digest.Digest]blobcache.Reason)
	cache := blobcache.New(n.Store, blobcache.Limits{Reserve: 1 << 60}, blobcache.Hooks{
		Evicted: func(e store.Entry, why blobcache.Reason, _ int64) {
			mu.Lock()
			defer mu.Unlock()
			reasons[e.Digest] = why
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var kept sync.WaitGroup
	kept.Go(func() { cache.Keep(ctx) })
	t.Cleanup(func() { cancel(); kept.Wait() })
	return func(d digest.Digest) blobcache.Reason {
		mu.Lock()
		defer mu.Unlock()
		return reasons[d]
	}
}

// TestEvictUploaded: a full disk loses what is in the bucket.
func TestEvictUploaded(t *testing.T) {
	server := s3test.New(t)
	n := newNode(t, server)
	d := n.put(t, someContent)
	n.flush(t)
	why := onFullDisk(t, n)
	waitFor(t, func() bool { return why(d) == blobcache.ReasonSize })
}

// TestEvictWhileDown: a full disk loses what is not in the bucket if the bucket is down.
func TestEvictWhileDown(t *testing.T) {
	for name, fault := range map[string]s3test.Faults{
		"down": {Down: true}, "full": {Full: true}, "denying": {Status: 403, Code: "AccessDenied"}, "throttling": {Status: 503, Code: "SlowDown"},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			server.Set(fault)
			n := newNode(t, server)
			var d digest.Digest
			for i := range 2 * deniedLimit {
				d = n.put(t, fmt.Sprint("content ", i))
			}
			waitFor(t, func() bool { return n.Stuck(d) })
			why := onFullDisk(t, n)
			waitFor(t, func() bool { return why(d) == blobcache.ReasonLost })
		})
	}
}

// TestEvictRefused: a full disk loses what the bucket refuses, and not what is being
// uploaded.
func TestEvictRefused(t *testing.T) {
	server := s3test.New(t)
	bad := digest.FromString("content that fails")
	server.Set(s3test.Faults{Status: 400, Code: "InvalidArgument", Only: bad.Encoded()})
	n := newNode(t, server)
	n.put(t, "content that fails")
	waitFor(t, func() bool { return n.Stuck(bad) })
	server.Set(s3test.Faults{Stalled: true})
	d := n.put(t, someContent)
	why := onFullDisk(t, n)
	waitFor(t, func() bool { return why(bad) == blobcache.ReasonLost })
	if got := why(d); got != "" {
		t.Errorf("content that is being uploaded was evicted: %s", got)
	}
	if _, err := n.Stat(t.Context(), d); err != nil {
		t.Errorf("content that is being uploaded: %v", err)
	}
}

// TestStoreUploadsWhatTheBucketLost: content that came from the bucket is uploaded when it
// is stored again after the bucket has lost it, or removed it in a sweep.
func TestStoreUploadsWhatTheBucketLost(t *testing.T) {
	server := s3test.New(t)
	n := newNode(t, server)
	d := digest.FromString(someContent)
	server.Put(objectOf(d), []byte(someContent))
	if got, _, err := fetchAll(t, n, d, 0, -1); got != someContent || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	n.put(t, someContent)
	n.flush(t)
	if err := n.Remove(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	server.Lose(objectOf(d))
	if _, _, err := fetchAll(t, n, d, 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("content that the bucket has lost: %v", err)
	}
	n.put(t, someContent)
	n.flush(t)
	if _, found := server.Get(objectOf(d)); !found {
		t.Error("it was not uploaded again")
	}
}
