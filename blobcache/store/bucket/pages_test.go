package bucket

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// page is the number of objects on a page of a listing in these tests, and manyObjects fills
// two pages and begins a third one.
const (
	page        = 50
	manyObjects = 2*page + 1
)

// TestSweepPages: a sweep sees the objects on all pages of its listings once, also while
// it removes some of them, and removes those that are to go.
func TestSweepPages(t *testing.T) {
	server := s3test.New(t)
	server.SetPage(page)
	old := 0
	for i := range manyObjects {
		d, ago := digest.FromString(fmt.Sprint(i)), 1
		if i%13 == 0 {
			old, ago = old+1, 20
		}
		putAt(server, objectOf(d), "x", ago)
		putAt(server, "cache/links/acme/_/sha256/"+d.Encoded(), "x", ago)
		putAt(server, "cache/used/2001-01-01/"+d.Encoded(), "", 1)
	}
	lost := digest.FromString("lost")
	putAt(server, "cache/links/zebra/_/sha256/"+lost.Encoded(), "x", 20)
	n := limited(t, server, 0, 10*day)
	before := server.Requests(s3test.List)
	swept := sweep(t, n)
	want := sweepResult{Stored: manyObjects, StoredBytes: manyObjects, Removed: old, RemovedBytes: int64(old), Records: 1}
	if swept != want {
		t.Errorf("got %+v, want %+v", swept, want)
	}
	// Reports and content are listed twice, links once, and deliveries and refs are on one
	// page each.
	if got := server.Requests(s3test.List) - before; got != 5*3+2 {
		t.Errorf("%d listings, want 17", got)
	}
	server.Advance(sweepInterval + idleFor)
	swept = sweep(t, limited(t, server, 0, 100*day))
	if swept.Stored != manyObjects-old || swept.Removed != 0 || swept.Records != old {
		t.Errorf("the next sweep: %+v, want that it removes the links of the %d contents that went", swept, old)
	}
}

// TestDeleteBelowPages: records on all pages of a listing are removed.
func TestDeleteBelowPages(t *testing.T) {
	server := s3test.New(t)
	server.SetPage(page)
	n := newNode(t, server)
	for i := range manyObjects {
		server.Put(fmt.Sprintf("cache/links/acme/_/%d", i), []byte("x"))
	}
	server.Put("cache/links/acme2/_/1", []byte("x"))
	if err := n.DeleteBelow(t.Context(), "links/acme"); err != nil {
		t.Fatal(err)
	}
	n.flush(t)
	if got := server.Keys(); len(got) != 1 || got[0] != "cache/links/acme2/_/1" {
		t.Errorf("%d objects are left, want that of the other owner", len(got))
	}
	if got := server.Requests(http.MethodDelete); got != manyObjects {
		t.Errorf("%d objects removed, want %d", got, manyObjects)
	}
}

// TestListSharedPages: all records are visited once, in order, and a listing ends with
// the error of a visit on a later page.
func TestListSharedPages(t *testing.T) {
	server := s3test.New(t)
	server.SetPage(page)
	n := newNode(t, server)
	for i := range manyObjects {
		server.Put(fmt.Sprintf("cache/links/acme/_/%04d", i), []byte("x"))
	}
	visits, failed := 0, errors.New("visit fails")
	visit := func(until int) func(r store.Record) error {
		visits = 0
		return func(r store.Record) error {
			if want := fmt.Sprintf("links/acme/_/%04d", visits); r.Key != want {
				t.Errorf("visited %s, want %s", r.Key, want)
			}
			if visits++; visits == until {
				return failed
			}
			return nil
		}
	}
	if err := n.ListShared(t.Context(), "links", visit(0)); err != nil || visits != manyObjects {
		t.Errorf("%d visits, %v, want %d", visits, err, manyObjects)
	}
	if err := n.ListShared(t.Context(), "links", visit(page+7)); !errors.Is(err, failed) || visits != page+7 {
		t.Errorf("%d visits, %v, want %d and that error", visits, err, page+7)
	}
	// A bucket that fails on the second page does not pass for one with fewer records.
	listings := 0
	server.OnAnswer(func(_, uri string) {
		if listings++; listings == 1 {
			server.Set(s3test.Faults{Status: http.StatusServiceUnavailable, Code: "SlowDown"})
		}
	})
	if err := n.ListShared(t.Context(), "links", visit(0)); err == nil || visits > page {
		t.Errorf("the bucket fails on the second page: %d visits, %v", visits, err)
	}
}

// TestPurgesPages: a node learns purges that are on later pages of the listing.
func TestPurgesPages(t *testing.T) {
	server := s3test.New(t)
	server.SetPage(page)
	two := newNode(t, server)
	y := index.New(two)
	d := digest.FromString("a")
	addLink(t, y, d)
	for i := range page + 1 {
		server.Put(fmt.Sprintf("cache/purges/%064d", i), []byte("not a record"))
	}
	key := purgeAt(t, two, server, "acme", time.Now().Add(time.Second))
	if strings.Compare(key, fmt.Sprintf("purges/%064d", page)) < 0 {
		t.Fatal("the purge is on the first page")
	}
	if lost := learn(t, y); len(lost) != 1 || hasLink(t, y, d) {
		t.Errorf("lost %v, want the link", lost)
	}
}

// TestSweepUploadsPages: uploads on all pages of the listing are removed, also if the
// object store does not go on after one that is gone.
func TestSweepUploadsPages(t *testing.T) {
	server := s3test.New(t)
	server.SetPage(page)
	n := limited(t, server, 0, 0)
	for i := range page + 3 {
		name := fmt.Sprintf("cache/blobs/sha256/ab/%d", i/2)
		if _, err := n.client.api.NewMultipartUpload(t.Context(), s3test.Bucket, name, minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	server.Advance(uploadLimit + time.Hour)
	if swept := sweep(t, n); swept.Uploads != page+3 || server.Uploads() != 0 {
		t.Errorf("got %+v, and %d uploads are left, want none", swept, server.Uploads())
	}
}
