package bucket

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// addedAt writes a link to the bucket that a node recorded at a time.
func addedAt(t *testing.T, n *node, server *s3test.Server, d digest.Digest, at time.Time) {
	t.Helper()
	putRecord(t, n, server, "links/"+scope+"/_/sha256/"+d.Encoded(), map[string]any{"size": 7, "proof": 1, "added": at})
}

// TestPurgesTooMany checks that if there are more purges than a node reads, only what was
// recorded after those that it leaves out counts, and that it says so once.
func TestPurgesTooMany(t *testing.T) {
	server := s3test.New(t)
	two := newNode(t, server)
	y := index.New(two)
	now := time.Now()
	for i := range maxPurges + 10 {
		key := purgeAt(t, two, server, fmt.Sprintf("other/%d", i), now) // what is below it is not looked for yet
		server.Age("cache/"+key, now.Add(-time.Hour-time.Duration(i)*time.Second))
	}
	older, newer := digest.FromString("a"), digest.FromString("b")
	addedAt(t, two, server, older, now.Add(-30*time.Hour))
	addedAt(t, two, server, newer, now.Add(-time.Minute))
	err := y.LearnPurges(t.Context(), func(digest.Digest) {})
	if err == nil || !strings.Contains(err.Error(), tooMany) {
		t.Errorf("got the error %v, want that there are too many", err)
	}
	if hasLink(t, y, older) || !hasLink(t, y, newer) {
		t.Error("an older link counts, or one does not that is later than what was left out")
	}
	if err := y.LearnPurges(t.Context(), func(digest.Digest) {}); err != nil {
		t.Errorf("the next call: got %v, want no error", err)
	}
}

// TestPurgeBehindLaterForged checks that a purge counts although it is not read yet, because
// there are many later records.
func TestPurgeBehindLaterForged(t *testing.T) {
	server := s3test.New(t)
	two := newNode(t, server)
	y := index.New(two)
	d := digest.FromString("a")
	addedAt(t, two, server, d, time.Now().Add(-time.Hour))
	purgeAt(t, two, server, "acme", time.Now().Add(-time.Minute))
	forge(server, 0, purgeReads)
	learn(t, y)
	if hasLink(t, y, d) {
		t.Error("a link counts that was purged")
	}
}

// TestPurgeWhileThrottled checks that a purge is learned in the end, however long the bucket
// lists its record and refuses to send it.
func TestPurgeWhileThrottled(t *testing.T) {
	server := s3test.New(t)
	two := newNode(t, server)
	y := index.New(two)
	d := digest.FromString("a")
	addedAt(t, two, server, d, time.Now().Add(-time.Hour))
	purgeAt(t, two, server, "acme", time.Now().Add(-time.Minute))
	server.Set(s3test.Faults{Status: http.StatusServiceUnavailable, Code: "SlowDown", Only: "/purges/"})
	for range purgeTries + 1 {
		learn(t, y)
		waitFor(t, func() bool { return !two.reads.breaker.Open() })
	}
	server.Set(s3test.Faults{})
	learn(t, y)
	if hasLink(t, y, d) {
		t.Error("a link counts that was purged")
	}
}
