package bucket

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// purgeTries is how often an index reads the record of a purge that it cannot read.
const purgeTries = 3

// putRecord writes a record to the bucket as a node does that is not there any more.
func putRecord(t *testing.T, n *node, server *s3test.Server, key string, fields map[string]any) {
	t.Helper()
	value, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := n.seal(t.Context(), key, value)
	if err != nil {
		t.Fatal(err)
	}
	server.Put("cache/"+key, sealed)
}

// purgeAt announces that a prefix was purged at a time.
func purgeAt(t *testing.T, n *node, server *s3test.Server, prefix string, at time.Time) (key string) {
	t.Helper()
	sum := sha256.Sum256([]byte(prefix))
	key = "purges/" + hex.EncodeToString(sum[:])
	putRecord(t, n, server, key, map[string]any{"prefix": prefix, "at": at})
	server.Age("cache/"+key, at)
	return key
}

// tooMany is in the error of an index that leaves out records of purges.
const tooMany = "too many records of purges"

// learn makes an index learn purges, as many as it reads, and returns what has lost a link.
func learn(t *testing.T, x *index.Index) (lost []digest.Digest) {
	t.Helper()
	err := x.LearnPurges(t.Context(), func(d digest.Digest) { lost = append(lost, d) })
	if err != nil && !strings.Contains(err.Error(), tooMany) {
		t.Fatal(err)
	}
	return lost
}

func hasLink(t *testing.T, x *index.Index, d digest.Digest) bool {
	t.Helper()
	_, err := x.Link(t.Context(), scope, d)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// onlyIn returns the name of the only object in a folder of the bucket.
func onlyIn(t *testing.T, server *s3test.Server, folder string) string {
	t.Helper()
	var found []string
	for _, key := range server.Keys() {
		if strings.HasPrefix(key, "cache/"+folder+"/") {
			found = append(found, key)
		}
	}
	if len(found) != 1 {
		t.Fatalf("the bucket has %v in %s, want one object", found, folder)
	}
	return found[0]
}

// TestPurgeOfCluster: what one node purges is gone from the memory and the disk of
// another one as soon as it looks, and what it was about to upload then does not come
// back, on any node.
func TestPurgeOfCluster(t *testing.T) {
	server := s3test.New(t)
	one, two := newNode(t, server), newNode(t, server)
	x, y := index.New(one), index.New(two)
	var purged []string
	y.Purged = func(prefix string) { purged = append(purged, prefix) }
	a := digest.FromString("a")
	addLink(t, x, a)
	setRef(t, x, a, time.Now())
	one.flush(t)
	if _, err := y.Ref(t.Context(), scope, "latest"); !hasLink(t, y, a) || err != nil || len(learn(t, y)) != 0 {
		t.Fatalf("before the purge: no link, or %v", err)
	}
	link, ref := onlyIn(t, server, "links"), onlyIn(t, server, "refs")
	uploads := make(map[string][]byte)
	for _, key := range []string{link, ref} {
		uploads[key], _ = server.Get(key)
	}
	if n, err := x.Purge(t.Context(), "acme", func(digest.Digest) {}); n != 1 || err != nil {
		t.Fatalf("purged %d links, %v", n, err)
	}
	one.flush(t)
	for key, content := range uploads {
		if _, found := server.Get(key); found {
			t.Errorf("%s is in the bucket after the purge", key)
		}
		server.Put(key, content) // by a node that does not know of the purge yet
	}
	if lost := learn(t, y); len(lost) != 1 || lost[0] != a || len(purged) != 1 || purged[0] != "acme" {
		t.Errorf("lost %v, and the purges %v, want the link and the purge of acme", lost, purged)
	}
	z := index.New(newNode(t, server))
	learn(t, z)
	for name, x := range map[string]*index.Index{"purging": x, "learning": y, "new": z} {
		if _, err := x.Ref(t.Context(), scope, "latest"); hasLink(t, x, a) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s node: a link, or a ref and %v", name, err)
		}
	}
	if lost := learn(t, y); len(lost) != 0 || len(purged) != 1 {
		t.Errorf("learnt twice: lost %v, purges %v", lost, purged)
	}
}

// TestPurgeLater: a purge concerns what was recorded before it. After a while, a node
// removes what others have written to the bucket nevertheless.
func TestPurgeLater(t *testing.T) {
	server := s3test.New(t)
	two := newNode(t, server)
	y := index.New(two)
	a, b := digest.FromString("a"), digest.FromString("b")
	addLink(t, y, a)
	two.flush(t)
	before := onlyIn(t, server, "links")
	purgeAt(t, two, server, "acme", time.Now().Add(-2*time.Minute))
	purgeAt(t, two, server, "other", time.Now())
	old := "links/" + scope + "/_/sha256/" + b.Encoded()
	putRecord(t, two, server, old, map[string]any{"size": 7, "proof": 1, "added": time.Now().Add(-time.Hour)})
	if lost := learn(t, y); len(lost) != 0 || !hasLink(t, y, a) || hasLink(t, y, b) {
		t.Errorf("lost %v; want the link from after the purge, and none from before", lost)
	}
	two.flush(t)
	if _, found := server.Get("cache/" + old); found {
		t.Error("the bucket still has what was written before the purge")
	}
	if _, found := server.Get(before); !found {
		t.Error("the bucket has lost what was written after the purge")
	}
}

// TestPurgeMissed: a node that was away for longer than purges are kept forgets older
// records, and purges are removed from the bucket in the end. Objects that no node has
// written are ignored.
func TestPurgeMissed(t *testing.T) {
	server := s3test.New(t)
	two := newNode(t, server)
	const day = 24 * time.Hour
	key := purgeAt(t, two, server, "gone", time.Now().Add(-8*day))
	server.Put("cache/purges/forged", []byte(`{"prefix":"acme","at":"2999-01-01T00:00:00Z"}`))
	a, b := digest.FromString("a"), digest.FromString("b")
	old, _ := json.Marshal(map[string]any{"size": 7, "proof": 1, "added": time.Now().Add(-8 * day)})
	local := "links/" + scope + "/_/sha256/" + a.Encoded()
	if err := two.FileStore.Save(t.Context(), local, old); err != nil {
		t.Fatal(err)
	}
	y := index.New(two)
	addLink(t, y, b)
	if lost := learn(t, y); len(lost) != 0 || !hasLink(t, y, a) {
		t.Errorf("a node that was not away: lost %v", lost)
	}
	if err := two.FileStore.Save(t.Context(), "learnt/purges", []byte(time.Now().Add(-8*day).UTC().Format(time.RFC3339))); err != nil {
		t.Fatal(err)
	}
	z := index.New(two)
	if lost := learn(t, z); len(lost) != 1 || lost[0] != a || !hasLink(t, z, b) {
		t.Errorf("a node that was away: lost %v, want the old link", lost)
	}
	if _, err := two.FileStore.Load(t.Context(), local); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old link is still on the disk: %v", err)
	}
	two.flush(t)
	if _, found := server.Get("cache/" + key); found {
		t.Error("an old purge is still in the bucket")
	}
	reads, lists := server.Requests(http.MethodGet), server.Requests(s3test.List)
	for range 5 {
		learn(t, z)
	}
	if got, listed := server.Requests(http.MethodGet)-reads, server.Requests(s3test.List)-lists; got > purgeTries || listed != 5 {
		t.Errorf("%d requests for an object that cannot be read, and %d listings, want at most %d and 5", got, listed, purgeTries)
	}
	server.Set(s3test.Faults{Down: true})
	if lost := learn(t, z); len(lost) != 0 || !hasLink(t, z, b) {
		t.Errorf("without the bucket: lost %v", lost)
	}
}
