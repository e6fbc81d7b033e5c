package bucket

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// node is a store, as one of the nodes of a cluster has it.
type node struct {
	*Store
	stop func() // ends Keep and waits for it

	mu       sync.Mutex
	problems []string
}

func (n *node) reported() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.problems, "\n")
}

// shortWaits are for tests in which a bucket fails. None of them decides a result.
var shortWaits = waits{pause: time.Millisecond, maxPause: 5 * time.Millisecond, absent: time.Nanosecond, rescan: time.Millisecond, sweepRate: 1e6, flush: time.Millisecond}

// keysOf returns keys that depend on a secret. The newest has the id.
func keysOf(secret, newest string, ids ...string) Keys {
	return func(_ context.Context, id string) (string, []byte, error) {
		if id == "" {
			id = newest
		}
		for _, known := range append(ids, newest) {
			if id == known {
				key := sha256.Sum256([]byte(secret + id))
				return id, key[:], nil
			}
		}
		return "", nil, fmt.Errorf("key %s: %w", id, fs.ErrNotExist)
	}
}

// configOf returns the configuration of a node with a directory.
func configOf(t testing.TB, server *s3test.Server, dir string) Config {
	t.Helper()
	local, err := store.OpenFileStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Local: local, Endpoint: strings.TrimPrefix(server.URL, "http://"), Plain: true,
		Bucket: s3test.Bucket, Prefix: "cache/", PathStyle: true,
		Credentials: credentials.NewStaticV4("access", "secret", ""),
		Keys:        keysOf("shared", "k1"),
		waits:       shortWaits,
	}
}

// start opens a store and keeps it until the test ends.
func start(t *testing.T, c Config) *node {
	t.Helper()
	n := &node{}
	c.StorageError = func(op string, err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.problems = append(n.problems, op+": "+err.Error())
	}
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var kept sync.WaitGroup
	kept.Go(func() { s.Keep(ctx) })
	n.Store, n.stop = s, func() { cancel(); kept.Wait() }
	t.Cleanup(n.stop)
	return n
}

// newNode starts a node with a new directory.
func newNode(t *testing.T, server *s3test.Server) *node {
	t.Helper()
	return start(t, configOf(t, server, t.TempDir()))
}

// flush waits until all is uploaded.
func (n *node) flush(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, q := range []*queue{n.records, n.blobs} {
		select {
		case <-q.await(false):
		case <-ctx.Done():
			t.Fatalf("not uploaded: %+v\n%s", n.Status(), n.reported())
		}
	}
}

// put stores content.
func (n *node) put(t *testing.T, content string) digest.Digest {
	t.Helper()
	d := digest.FromString(content)
	spool, err := n.Spool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	if _, err := spool.WriteString(content); err != nil {
		t.Fatal(err)
	}
	if err := n.Commit(t.Context(), d, spool); err != nil {
		_ = os.Remove(spool.Name())
		t.Fatal(err)
	}
	return d
}

// waitFor waits for what happens in the background.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it has not happened in half a minute")
		}
	}
}
