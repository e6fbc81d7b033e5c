package bucket

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// largeContent has signed URLs once it is uploaded.
var largeContent = strings.Repeat("0123456789abcdef", minLarge/16) + "!"

// minLarge is the size of parts in these tests.
const (
	minLarge  = 5 << 20
	largeSize = minLarge + 1
)

// newSigning starts a node that uploads in small parts.
func newSigning(t *testing.T, server *s3test.Server) *node {
	t.Helper()
	config := configOf(t, server, t.TempDir())
	config.partSize, config.waits.verified = minLarge, time.Hour // does not end during a test
	return start(t, config)
}

// expectSigned checks whether a node has a signed URL for content, and returns it.
func expectSigned(t *testing.T, n *node, d digest.Digest, want error) string {
	t.Helper()
	u, err := n.SignedURL(t.Context(), d, largeSize, time.Minute)
	if !errors.Is(err, want) {
		t.Fatalf("signed URL: %v, want the error %v", err, want)
	}
	if err != nil {
		return ""
	}
	return u.String()
}

// get returns the status and the length of what is at a URL.
func get(t *testing.T, url string, header http.Header) (status int, length int64) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if length, err = io.Copy(io.Discard, answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, length
}

// TestStoreSignedURL: all nodes have signed URLs for what one of them has uploaded with
// checksums, and for nothing else, and only while the bucket has it.
func TestStoreSignedURL(t *testing.T) {
	server := s3test.New(t)
	server.SetSecret("secret")
	one, two := newSigning(t, server), newSigning(t, server)
	d := one.put(t, largeContent)
	expectSigned(t, one, d, fs.ErrNotExist) // it is not there yet
	waitFor(t, func() bool { _, there := server.Get("cache/" + verifiedKey(d)); return there })
	signed := expectSigned(t, one, d, nil)
	if status, length := get(t, signed, nil); status != http.StatusOK || length != largeSize {
		t.Errorf("signed URL: got status %d and %d bytes, want all %d", status, length, largeSize)
	}
	if status, _ := get(t, signed, http.Header{"Authorization": {"Bearer token"}}); status != http.StatusBadRequest {
		t.Errorf("signed URL with a login: got status %d, want that of an object store", status)
	}
	if status, _ := get(t, strings.Replace(signed, d.Encoded(), digest.FromString("x").Encoded(), 1), nil); status != http.StatusForbidden {
		t.Errorf("the signature counts for another object: got status %d", status)
	}
	expectSigned(t, two, d, nil)
	before := server.Requests("")
	for range 3 {
		expectSigned(t, two, d, nil)
	}
	if got := server.Requests("") - before; got != 0 {
		t.Errorf("%d requests for URLs of content that the bucket has just had, want none", got)
	}
	if _, err := two.SignedURL(t.Context(), d, minLarge, time.Minute); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a URL for small content: %v, want none", err)
	}
	if _, err := two.SignedURL(t.Context(), d, largeSize+1, time.Minute); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a URL for content of another size: %v, want none", err)
	}
	for name, change := range map[string]func(){
		"replaced": func() { server.Put(objectOf(d), []byte(strings.Replace(largeContent, "0", "1", 1))) },
		"lost":     func() { server.Lose(objectOf(d)) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newSigning(t, server)
			change()
			expectSigned(t, n, d, fs.ErrNotExist)
		})
	}
}

// TestStoreSignedURLAfterKill checks that a node that was killed after an upload, before it
// recorded that, records it when it starts again, but not for an object without the checksums
// of the content.
func TestStoreSignedURLAfterKill(t *testing.T) {
	for name, test := range map[string]struct {
		replace func(*s3test.Server, string)
		want    error
	}{
		"uploaded": {func(*s3test.Server, string) {}, nil},
		"replaced": {func(server *s3test.Server, key string) { server.Put(key, []byte(largeContent)) }, fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			one := newSigning(t, server)
			d := one.put(t, largeContent)
			one.flush(t)
			one.stop()
			for _, key := range []string{verifiedKey(d), uploadedKey(d)} {
				if err := one.FileStore.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
			server.Lose("cache/" + verifiedKey(d))
			test.replace(server, objectOf(d))
			config := one.config
			again := start(t, config)
			waitFor(t, func() bool { return again.Removable(t.Context(), d) })
			again.flush(t)
			expectSigned(t, again, d, test.want)
			if got := server.Stores(objectOf(d)); got != 1 {
				t.Errorf("uploaded %d times, want once", got)
			}
		})
	}
}

// TestStoreSignedURLOfOthers: content that another program has put into the bucket has
// no signed URL, whatever record it has beside it.
func TestStoreSignedURLOfOthers(t *testing.T) {
	server := s3test.New(t)
	n := newSigning(t, server)
	d := digest.FromString("some content")
	server.Put(objectOf(d), []byte(largeContent))
	expectSigned(t, n, d, fs.ErrNotExist)
	o, err := n.client.stat(t.Context(), blobName(d))
	if err != nil {
		t.Fatal(err)
	}
	server.Put("cache/"+verifiedKey(d), []byte(o.String()))
	expectSigned(t, n, d, fs.ErrNotExist)
	if !strings.Contains(n.reported(), errForged.Error()) {
		t.Errorf("reported %q, want the forged record", n.reported())
	}
}

// verified returns a node whose bucket has large content that no node has locally. The
// digest is that of other content, which nobody compares here.
func verified(t *testing.T, server *s3test.Server) (*node, digest.Digest) {
	t.Helper()
	n := newSigning(t, server)
	d := digest.FromString("some content")
	server.Put(objectOf(d), []byte(largeContent))
	o, err := n.client.stat(t.Context(), blobName(d))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Save(t.Context(), verifiedKey(d), []byte(o.String())); err != nil {
		t.Fatal(err)
	}
	return n, d
}

// TestStoreSignedURLWhileBucketFails: a bucket that fails has no signed URLs until it
// works again.
func TestStoreSignedURLWhileBucketFails(t *testing.T) {
	for name, fault := range map[string]s3test.Faults{
		"down": {Down: true}, "throttling": {Status: http.StatusServiceUnavailable, Code: "SlowDown"},
		"denying": {Status: http.StatusForbidden, Code: "AccessDenied"},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			n, d := verified(t, server)
			expectSigned(t, n, d, nil)
			server.Set(fault)
			if _, _, err := n.Fetch(t.Context(), digest.FromString("another"), 0, -1); err == nil {
				t.Fatal("the bucket does not fail")
			}
			if _, err := n.SignedURL(t.Context(), d, largeSize, time.Minute); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("signed URL of a bucket that fails: %v, want its error", err)
			}
			server.Set(s3test.Faults{})
			waitFor(t, func() bool {
				_, err := n.SignedURL(t.Context(), d, largeSize, time.Minute)
				return err == nil
			})
		})
	}
}

// TestStoreSignedURLAfterASecond: a bucket that goes down while nothing else asks it has
// no signed URLs a second later. Most clients do not come back for a blob that they
// cannot read there.
func TestStoreSignedURLAfterASecond(t *testing.T) {
	if got := (Config{}).withDefaults().waits.verified; got > time.Second {
		t.Errorf("clients are sent to a bucket that has been down for %v, want at most a second", got)
	}
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	config.partSize, config.waits.verified = minLarge, time.Millisecond
	n := start(t, config)
	d := n.put(t, largeContent)
	waitFor(t, func() bool {
		_, err := n.SignedURL(t.Context(), d, largeSize, time.Minute)
		return err == nil
	})
	server.Set(s3test.Faults{Down: true})
	time.Sleep(config.waits.verified)
	if _, err := n.SignedURL(t.Context(), d, largeSize, time.Minute); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("signed URL of a bucket that is down: %v, want its error", err)
	}
}

// TestStoreSignedURLCountsAsUse: the sweep keeps what clients read from the bucket
// themselves through any node, and removes the record with the content.
func TestStoreSignedURLCountsAsUse(t *testing.T) {
	server := s3test.New(t)
	one, d := verified(t, server)
	old := time.Now().Add(-60 * day)
	server.Age(objectOf(d), old)
	if err := one.Mark(t.Context(), verifiedKey(d), old); err != nil {
		t.Fatal(err)
	}
	expectSigned(t, one, d, nil)
	if err := one.saveUses(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	one.stop() // so that the record is not uploaded after the sweep
	one.config.UnusedFor = 30 * day
	for name, n := range map[string]*node{"the node itself": one, "another node": limited(t, server, 0, 30*day)} {
		if got := sweep(t, n); got.Removed != 0 {
			t.Errorf("%s removes %d objects although one was just used, want none", name, got.Removed)
		}
		server.Lose("cache/" + sweptName)
	}
	for _, key := range server.Keys() {
		if strings.HasPrefix(key, "cache/"+usedFolder) {
			server.Lose(key)
		}
	}
	two := limited(t, server, 0, 30*day)
	two.config.partSize = minLarge
	if got := sweep(t, two); got.Removed != 1 {
		t.Errorf("%d objects removed that no node uses, want 1", got.Removed)
	}
	if keys := server.Keys(); slices.Contains(keys, "cache/"+verifiedKey(d)) {
		t.Errorf("the record of removed content is still there: %v", keys)
	}
	expectSigned(t, two, d, fs.ErrNotExist)
}
