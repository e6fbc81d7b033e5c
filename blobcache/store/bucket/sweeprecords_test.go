package bucket

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// link links scopes to content, as of so many days ago.
func link(server *s3test.Server, d digest.Digest, days int, scopes ...string) {
	for _, scope := range scopes {
		putAt(server, "cache/links/"+scope+"/_/sha256/"+d.Encoded(), "1", days)
	}
}

// links describes which content the scopes of an owner have links to.
func links(server *s3test.Server, owner string, digests []digest.Digest) string {
	var text strings.Builder
	for _, key := range server.Keys() {
		if d, ok := index.ContentOf(strings.TrimPrefix(key, "cache/")); ok && strings.HasPrefix(key, "cache/links/"+owner+"/") {
			text.WriteByte(byte('a' + slices.Index(digests, d)))
		}
	}
	return text.String()
}

// TestSweepQuotas: an owner over its quota loses the links to the least recently used
// content, in all of its scopes, and the content goes with them unless another owner has
// it. Owners within their quotas and those without one lose nothing.
func TestSweepQuotas(t *testing.T) {
	server := s3test.New(t)
	digests := filled(t, server, 50, 40, 30, 20, 10)
	a, b, c, d, e := digests[0], digests[1], digests[2], digests[3], digests[4]
	link(server, a, 50, "acme/_/hub/x", "acme/sub/_/hub/x")
	link(server, b, 40, "acme/_/hub/x", "red/_/hub/x")
	link(server, c, 30, "acme/sub/_/hub/x")
	link(server, d, 20, "acme/_/hub/x")
	link(server, e, 10, "acme/_/hub/x", "acme/_/hub/y", "acmeother/_/hub/x")
	n := limited(t, server, 0, 0)
	release := n.LimitOwners(map[string]int64{"acme": 3500, "red": 1000, "none": 0})
	if swept := sweep(t, n); swept.Records != 3 || swept.Removed != 1 {
		t.Errorf("got %+v, want 3 links of 2 contents, and one content", swept)
	}
	if got := left(server, digests); got != "bcde" {
		t.Errorf("left %q, want bcde", got)
	}
	for owner, want := range map[string]string{"acme": "eedc", "red": "b", "acmeother": "e"} {
		if got := []byte(links(server, owner, digests)); len(got) != len(want) || strings.Trim(string(got), want) != "" {
			t.Errorf("%s has links to %q, want %q", owner, got, want)
		}
	}
	release()
	server.Advance(sweepInterval)
	if swept, err := n.sweep(t.Context()); swept.Stored != 0 || err != nil {
		t.Errorf("without quotas: got %+v, %v, want nothing to do", swept, err)
	}
	defer n.LimitOwners(map[string]int64{"acme": 100_000})()
	defer n.LimitOwners(map[string]int64{"acme": 1500})()
	server.Advance(sweepInterval)
	if swept := sweep(t, n); swept.Records != 2 || left(server, digests) != "be" {
		t.Errorf("with a lower quota: got %+v and left %q, want be", swept, left(server, digests))
	}
}

// TestSweepQuotasSpareYoung: a link that was just made stays, and its content.
func TestSweepQuotasSpareYoung(t *testing.T) {
	server := s3test.New(t)
	digests := filled(t, server, 50, 40)
	link(server, digests[0], 0, "acme/_/hub/x")
	link(server, digests[1], 40, "acme/_/hub/x")
	n := limited(t, server, 0, 0)
	defer n.LimitOwners(map[string]int64{"acme": 10})()
	sweep(t, n)
	if got := left(server, digests); got != "a" || links(server, "acme", digests) != "a" {
		t.Errorf("left %q and links to %q, want a", got, links(server, "acme", digests))
	}
}

// TestSweepIdleRecords: links and deliveries go some time after their content.
func TestSweepIdleRecords(t *testing.T) {
	server := s3test.New(t)
	digests := filled(t, server, 1)
	gone := digest.FromString("gone")
	delivery := func(d digest.Digest) string {
		return "cache/deliveries/hub/_/sha256/" + d.Encoded()[:2] + "/" + d.Encoded()
	}
	link(server, digests[0], 100, "acme/_/hub/x")
	link(server, gone, 8, "acme/_/hub/x")
	link(server, gone, 6, "acme/_/hub/y")
	putAt(server, delivery(digests[0]), "1", 100)
	putAt(server, delivery(gone), "1", 8)
	putAt(server, "cache/links/acme/other", "not one of ours", 100)
	if swept := sweep(t, limited(t, server, 1<<30, 0)); swept.Records != 2 || swept.Removed != 0 {
		t.Errorf("got %+v, want that two records are removed", swept)
	}
	want := []string{
		objectOf(digests[0]), delivery(digests[0]), "cache/links/acme/_/hub/x/_/sha256/" + digests[0].Encoded(),
		"cache/links/acme/_/hub/y/_/sha256/" + gone.Encoded(), "cache/links/acme/other", "cache/swept",
	}
	slices.Sort(want)
	if got := server.Keys(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestSweepIdleRecordsMeetsUpload: a link stays whose content is uploaded meanwhile, and all
// of them if the bucket shows no content at all.
func TestSweepIdleRecordsMeetsUpload(t *testing.T) {
	for name, stored := range map[string]int{"an upload": 1, "an empty listing": 0} {
		server := s3test.New(t)
		filled(t, server, make([]int, stored)...)
		d := digest.FromString(someContent)
		link(server, d, 100, "acme/_/hub/x")
		server.OnAnswer(func(_, uri string) {
			if stored > 0 && strings.Contains(uri, "prefix=cache%2Flinks%2F") {
				server.Put(objectOf(d), []byte(someContent))
			}
		})
		if swept := sweep(t, limited(t, server, 1<<30, 0)); swept.Records != 0 {
			t.Errorf("%s: got %+v, want that the link stays", name, swept)
		}
	}
}

// TestSweepUploads: the parts of uploads go that were begun more than a day ago.
func TestSweepUploads(t *testing.T) {
	server := s3test.New(t)
	n := limited(t, server, 0, 0)
	begin := func() {
		if _, err := n.client.api.NewMultipartUpload(t.Context(), s3test.Bucket, "cache/blobs/sha256/ab/abcd", minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	begin()
	server.Advance(30 * time.Hour)
	begin()
	if server.Uploads() != 2 {
		t.Fatalf("%d uploads are open, want 2", server.Uploads())
	}
	if swept := sweep(t, n); swept.Uploads != 1 || server.Uploads() != 1 {
		t.Errorf("got %+v, and %d uploads are left, want 1 and 1", swept, server.Uploads())
	}
}
