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

// maxPurges is the number of purges that an index remembers, and purgeReads the number of
// their records that it reads at a time.
const (
	maxPurges  = 4 << 10
	purgeReads = 500
)

// forge writes records of purges to a bucket that no node has written, which come before
// real ones in listings.
func forge(server *s3test.Server, first, n int) {
	for i := range n {
		server.Put(forgedKey(first+i), []byte("forged"))
	}
}

func forgedKey(i int) string { return fmt.Sprintf("cache/purges/%064d", i) }

// TestPurgeBehindForged checks that forged records cost a bounded number of requests, hide no
// later purge, and are removed.
func TestPurgeBehindForged(t *testing.T) {
	server := s3test.New(t)
	two := newNode(t, server)
	y := index.New(two)
	d := digest.FromString("a")
	addLink(t, y, d)
	two.flush(t)
	forge(server, 0, purgeReads+50)
	for _, key := range server.Keys() {
		server.Age(key, time.Now().Add(-time.Minute))
	}
	purgeAt(t, two, server, "acme", time.Now())
	reads := server.Requests(http.MethodGet)
	lost := learn(t, y)
	if got := server.Requests(http.MethodGet) - reads; got > purgeReads {
		t.Errorf("%d requests, want at most %d", got, purgeReads)
	}
	if len(lost) != 1 || hasLink(t, y, d) {
		t.Errorf("lost %v, want the link", lost)
	}
	for range 3 {
		learn(t, y)
	}
	two.flush(t)
	onlyIn(t, server, "purges")
	if got := strings.Count(two.reported(), errForged.Error()); got != 1 {
		t.Errorf("forged records are reported %d times, want once", got)
	}
}

// TestPurgeAmongTooMany checks that while there are records of purges that a node has not
// read, it ignores what was recorded before, since any of them may purge that, and that what
// was not purged counts again when it has read them.
func TestPurgeAmongTooMany(t *testing.T) {
	server := s3test.New(t)
	two := newNode(t, server)
	y := index.New(two)
	d, other := digest.FromString("a"), "other/_/hub/library/x"
	addLink(t, y, d)
	if err := y.AddLink(t.Context(), other, d, index.Link{Size: 1}); err != nil {
		t.Fatal(err)
	}
	two.flush(t)
	otherHas := func() bool {
		_, err := y.Link(t.Context(), other, d)
		return err == nil
	}
	forge(server, 0, maxPurges)
	purgeAt(t, two, server, "acme", time.Now())
	reads, lists := server.Requests(http.MethodGet), server.Requests(s3test.List)
	learn(t, y)
	if got, listed := server.Requests(http.MethodGet)-reads, server.Requests(s3test.List)-lists; got > purgeReads || listed > maxPurges/listPage+1 {
		t.Errorf("%d reads and %d listings, want at most %d and %d", got, listed, purgeReads, maxPurges/listPage+1)
	}
	if hasLink(t, y, d) || otherHas() {
		t.Error("a link counts that may have been purged, want that it does not")
	}
	for i := range maxPurges - 2*purgeReads { // two rounds of reads show that all are read
		server.Lose(forgedKey(i))
	}
	for range 3 {
		learn(t, y)
		two.flush(t) // removes some of the forged ones
	}
	if hasLink(t, y, d) || !otherHas() {
		t.Error("later the purge does not count, or what was not purged does not count again")
	}
}

// TestListedLater checks that if new objects appear late in the listings of a bucket, a purge
// is only learned later, and a sweep removes no record of content that is not listed yet.
func TestListedLater(t *testing.T) {
	server := s3test.New(t)
	one, two := newNode(t, server), limited(t, server, 1<<30, 0)
	x, y := index.New(one), index.New(two)
	filled(t, server, 1)
	server.Set(s3test.Faults{ListLater: true})
	d := one.put(t, someContent)
	addLink(t, x, d)
	one.flush(t)
	link := onlyIn(t, server, "links")
	server.Put(link, []byte("listed at once")) // by an earlier upload
	server.Age(link, time.Now().Add(-100*day))
	if swept := sweep(t, two); swept.Records != 0 || swept.Stored != 1 {
		t.Errorf("got %+v, want that the link of content that is not listed stays", swept)
	}
	addLink(t, y, d)
	if _, err := x.Purge(t.Context(), "acme", func(digest.Digest) {}); err != nil {
		t.Fatal(err)
	}
	one.flush(t)
	if lost := learn(t, y); len(lost) != 0 {
		t.Fatalf("lost %v before the purge is listed, want nothing", lost)
	}
	server.Set(s3test.Faults{})
	if lost := learn(t, y); len(lost) != 1 || hasLink(t, y, d) {
		t.Errorf("lost %v when the purge is listed, want the link", lost)
	}
}
