package bucket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// filled returns a bucket with content of 1000 bytes each, uploaded so many days ago.
func filled(t *testing.T, server *s3test.Server, days ...int) (digests []digest.Digest) {
	t.Helper()
	for i, ago := range days {
		content := strings.Repeat(string(rune('a'+i)), 1000)
		d := digest.FromString(content)
		putAt(server, objectOf(d), content, ago)
		digests = append(digests, d)
	}
	return digests
}

// putAt stores an object as of so many days ago.
func putAt(server *s3test.Server, key, content string, days int) {
	server.Put(key, []byte(content))
	server.Age(key, time.Now().Add(-time.Duration(days)*day))
}

// left describes which content is in the bucket.
func left(server *s3test.Server, digests []digest.Digest) string {
	var text strings.Builder
	for i, d := range digests {
		if _, ok := server.Get(objectOf(d)); ok {
			text.WriteByte(byte('a' + i))
		}
	}
	return text.String()
}

// limited returns a node of which nothing but sweeps are asked.
func limited(t *testing.T, server *s3test.Server, maxSize int64, unusedFor time.Duration) *node {
	t.Helper()
	config := configOf(t, server, t.TempDir())
	config.MaxSize, config.UnusedFor = maxSize, unusedFor
	return start(t, config)
}

func sweep(t *testing.T, n *node) sweepResult {
	t.Helper()
	swept, err := n.sweep(t.Context())
	if err != nil {
		t.Fatalf("sweep: %v", err)
	}
	return swept
}

// TestSweep: content that no node has used for too long goes, and the least recently
// used content over the size. Nothing else goes.
func TestSweep(t *testing.T) {
	for name, test := range map[string]struct {
		maxSize   int64
		unusedFor time.Duration
		want      string
	}{
		"no limits":  {0, 0, "abcd"},
		"fits":       {4000, 50 * day, "abcd"},
		"unused":     {0, 15 * day, "bcd"},
		"size":       {3000, 0, "bc"},
		"both":       {3999, 9 * day, "bc"},
		"everything": {0, time.Nanosecond, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			digests := filled(t, server, 20, 20, 5, 10)
			server.Put("cache/blobs/sha256/ab/other", []byte("not one of ours"))
			// The second was used two days ago at another node.
			putAt(server, "cache/used/2001-01-02/other", digests[1].String()+"\nnonsense\n", 2)
			putAt(server, "cache/used/2001-01-01/other", digests[0].String()+"\n", 10_000)
			swept := sweep(t, limited(t, server, test.maxSize, test.unusedFor))
			if got := left(server, digests); got != test.want {
				t.Errorf("left %q, want %q", got, test.want)
			}
			if got := 4 - len(test.want); swept.Removed != got || swept.RemovedBytes != int64(1000*got) {
				t.Errorf("got %+v, want that %d are removed", swept, got)
			}
			if _, ok := server.Get("cache/blobs/sha256/ab/other"); !ok {
				t.Error("an object that is not of the cache is gone")
			}
			if _, ok := server.Get("cache/used/2001-01-01/other"); ok != (name == "no limits") {
				t.Errorf("the report of 2001 is there: %v", ok)
			}
			if _, ok := server.Get("cache/used/2001-01-02/other"); !ok {
				t.Error("a report is gone that counts")
			}
		})
	}
}

// TestSweepKnowsUses: what a node has used today stays, although it was uploaded long
// ago, whatever the clocks of the nodes say.
func TestSweepKnowsUses(t *testing.T) {
	for name, ahead := range map[string]time.Duration{
		"right": 0, "minutes ahead": 10 * time.Minute, "minutes behind": -10 * time.Minute, "a day ahead": day, "a day behind": -day,
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			config := configOf(t, server, t.TempDir())
			config.UnusedFor = 10 * day
			n := start(t, config)
			d := n.put(t, someContent)
			n.flush(t)
			server.Age(objectOf(d), time.Now().Add(-20*day))
			// The clock of the node is ahead of that of the bucket and the other node.
			here := time.Now().Add(ahead)
			if err := n.Touch(t.Context(), d, here); err != nil {
				t.Fatal(err)
			}
			if err := n.saveUses(t.Context(), here); err != nil {
				t.Fatal(err)
			}
			if swept := sweep(t, limited(t, server, 0, 10*day)); swept.Removed != 0 {
				t.Errorf("removed %d, want nothing", swept.Removed)
			}
			server.Advance(9 * day)
			if swept := sweep(t, limited(t, server, 0, 10*day)); swept.Removed != 0 {
				t.Errorf("9 days later: removed %d, want nothing", swept.Removed)
			}
			server.Advance(2 * day)
			if swept := sweep(t, limited(t, server, 0, 10*day)); swept.Removed != 1 {
				t.Errorf("11 days later: removed %d, want the object", swept.Removed)
			}
		})
	}
}

// TestSweepByWrongClock: a node whose clock is a day ahead or behind removes no more than
// another one.
func TestSweepByWrongClock(t *testing.T) {
	for _, ahead := range []time.Duration{day, -day} {
		server := s3test.New(t)
		server.Advance(-ahead) // the clock of the machine is that of the node
		digests := filled(t, server, 20, 5, 5)
		for i, ago := range []time.Duration{11 * day, 10*day - 4*time.Hour, 9 * day} {
			server.Age(objectOf(digests[i]), time.Now().Add(-ahead-ago))
		}
		sweep(t, limited(t, server, 0, 10*day))
		if got := left(server, digests); got != "bc" {
			t.Errorf("%v ahead: left %q, want bc", ahead, got)
		}
	}
}

// TestSweepTwice: two nodes that sweep at once remove no more than one, a bucket that
// fails ends a sweep without harm, and a bucket is not swept again at once.
func TestSweepTwice(t *testing.T) {
	server := s3test.New(t)
	digests := filled(t, server, 20, 20, 20, 1)
	one, two := limited(t, server, 0, 10*day), limited(t, server, 0, 10*day)
	server.Set(s3test.Faults{Status: 503, Code: "SlowDown"})
	if swept, err := one.sweep(t.Context()); swept.Removed != 0 || err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a bucket that throttles: %+v, %v", swept, err)
	}
	server.Set(s3test.Faults{})
	var both sync.WaitGroup
	for _, n := range []*node{one, two} {
		both.Go(func() {
			if _, err := n.sweep(t.Context()); err != nil && !errors.Is(err, errNotDue) {
				t.Errorf("sweep: %v", err)
			}
		})
	}
	both.Wait()
	if got := left(server, digests); got != "d" {
		t.Errorf("left %q, want d", got)
	}
	if _, err := one.sweep(t.Context()); !errors.Is(err, errNotDue) {
		t.Errorf("soon after a sweep: got %v, want %v", err, errNotDue)
	}
}

// TestSweepSkips checks that an object that cannot be removed does not keep others in the
// bucket.
func TestSweepSkips(t *testing.T) {
	for _, fault := range []s3test.Faults{{Status: 403, Code: "AccessDenied"}, {Status: 500, Code: "InternalError"}} {
		server := s3test.New(t)
		digests := filled(t, server, 20, 20, 20, 1)
		slices.SortFunc(digests[:3], func(a, b digest.Digest) int { return strings.Compare(a.String(), b.String()) })
		n := limited(t, server, 0, 10*day)
		fault.Only = digests[0].Encoded()
		server.Set(fault)
		if swept := sweep(t, n); swept.Removed != 2 || left(server, digests) != "ad" || !strings.Contains(n.reported(), fmt.Sprint(fault.Status)) {
			t.Errorf("%s: removed %d and left %q, want 2 and ad; reported %q", fault.Code, swept.Removed, left(server, digests), n.reported())
		}
	}
}

// TestSweepSkipsUnreadable checks that a record, content or an upload for which the bucket
// always fails does not keep others in the bucket, and that the sweep counts as done.
func TestSweepSkipsUnreadable(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	for name, only := range map[string]string{"ref": "/_/bad", "content": objectOf(a), "upload": "/ab/abcd"} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			filled(t, server, 1)
			n := limited(t, server, 1<<30, 0)
			for _, ref := range []string{"bad", "good"} {
				key := "refs/acme/_/hub/x/_/" + ref
				putRecord(t, n, server, key, map[string]any{"digest": b})
				server.Age("cache/"+key, time.Now().Add(-100*day))
			}
			link(server, a, 100, "acme/_/hub/a")
			link(server, b, 100, "acme/_/hub/b")
			for _, upload := range []string{"abcd", "abce"} {
				if _, err := n.client.api.NewMultipartUpload(t.Context(), s3test.Bucket, "cache/blobs/sha256/ab/"+upload, minio.PutObjectOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			server.Advance(30 * time.Hour)
			server.Set(s3test.Faults{Status: 500, Code: "InternalError", Only: only})
			if swept := sweep(t, n); swept.Records+swept.Uploads != 5 {
				t.Errorf("got %+v, want that 5 of 6 records and uploads are removed", swept)
			}
			if _, err := n.sweep(t.Context()); !errors.Is(err, errNotDue) {
				t.Errorf("the next sweep: %v, want %v", err, errNotDue)
			}
		})
	}
}

// TestSweepEndsIfNothingGoes checks that a sweep of a bucket in which nothing can be removed
// ends.
func TestSweepEndsIfNothingGoes(t *testing.T) {
	server := s3test.New(t)
	for i := range 2 * maxSkipped {
		putAt(server, objectOf(digest.FromString(fmt.Sprint(i))), "x", 20)
	}
	n := limited(t, server, 0, 10*day)
	server.Set(s3test.Faults{Status: 403, Code: "AccessDenied", Only: "blobs/"})
	before := server.Requests("HEAD")
	_, err := n.sweep(t.Context())
	if got := server.Requests("HEAD") - before; err == nil || errors.Is(err, errNotDue) || got > maxSkipped+10 {
		t.Errorf("got %v after %d requests, want an error after %d at most", err, got, maxSkipped+10)
	}
}

// TestSweepEndsAndGoesOn: a sweep ends with its context, and the next one does the rest.
func TestSweepEndsAndGoesOn(t *testing.T) {
	server := s3test.New(t)
	digests := filled(t, server, 20, 20, 20, 20, 1)
	n := limited(t, server, 0, 10*day)
	ctx, cancel := context.WithCancel(t.Context())
	server.OnAnswer(func(method, _ string) {
		if method == "DELETE" {
			cancel()
		}
	})
	if _, err := n.sweep(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	server.OnAnswer(nil)
	if got := left(server, digests); len(got) != 4 {
		t.Errorf("left %q, want all but one", got)
	}
	if swept := sweep(t, n); swept.Removed != 3 || left(server, digests) != "e" {
		t.Errorf("the next sweep removed %d and left %q, want 3 and e", swept.Removed, left(server, digests))
	}
}
