package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestQueueGoesOn: an object that always fails, whatever the reason, does not hold up
// others, is not tried all the time, and is reported. It is uploaded when it no longer
// fails.
func TestQueueGoesOn(t *testing.T) {
	for name, fault := range map[string]s3test.Faults{
		"denied": {Status: 403, Code: "AccessDenied"}, "invalid": {Status: 400, Code: "InvalidArgument"},
		"key too long": {Status: 400, Code: "KeyTooLongError"}, "too large": {Status: 413, Code: "EntityTooLarge"},
		"internal error": {Status: 500, Code: "InternalError"}, "no room": {Status: 507, Code: "XMinioStorageFull"},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			n := newNode(t, server)
			const bad = "content that fails"
			fault.Only = digest.FromString(bad).Encoded()
			server.Set(fault)
			var asked atomic.Int64
			server.OnAnswer(func(_, uri string) {
				if strings.Contains(uri, fault.Only) {
					asked.Add(1)
				}
			})
			d := n.put(t, bad)
			waitFor(t, func() bool { return n.Status().FailedBlobs == 1 || n.Status().WriteError != nil })
			for i := range 20 {
				other := n.put(t, fmt.Sprint("content ", i))
				waitFor(t, func() bool { return n.Removable(t.Context(), other) })
				if i == 0 { // until then it may be the fault of the bucket
					waitFor(t, func() bool { return n.Status().FailedBlobs == 1 })
					asked.Store(0)
				}
			}
			// The last one counts until its worker is done.
			waitFor(t, func() bool { return n.Status().Blobs <= 1 && n.Status().FailedBlobs == 1 })
			status := n.Status()
			if status.WriteError != nil || status.ObjectError == nil || status.Blobs != 1 || time.Since(status.Oldest) > time.Minute {
				t.Errorf("got %+v, want one object that fails", status)
			}
			reports := 1
			if fault.Status >= 500 {
				reports = 2 // at first that the bucket fails
			}
			if got := strings.Split(n.reported(), "\n"); !strings.Contains(got[0], d.String()) || len(got) != reports {
				t.Errorf("reported %q, want the digest %d times", got, reports)
			}
			server.OnAnswer(nil)
			server.Set(s3test.Faults{})
			n.flush(t)
			if !n.Removable(t.Context(), d) || asked.Load() > 20 {
				t.Errorf("uploaded %v after %d tries, want at most 20", n.Removable(t.Context(), d), asked.Load())
			}
		})
	}
}

// TestQueueDeniedToAll: a bucket that denies access to all objects fails as a whole.
func TestQueueDeniedToAll(t *testing.T) {
	server := s3test.New(t)
	server.Set(s3test.Faults{Status: 403, Code: "AccessDenied"})
	n := newNode(t, server)
	for i := range 2 * deniedLimit {
		n.put(t, fmt.Sprint("content ", i))
	}
	waitFor(t, func() bool { return n.Status().WriteError != nil })
	server.Set(s3test.Faults{})
	n.flush(t)
	if status := n.Status(); status.WriteError != nil || status.FailedBlobs != 0 {
		t.Errorf("got %+v, want that the bucket works", status)
	}
}

// TestQueueRetries: the times between tries double up to an hour.
func TestQueueRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Time
		denied := &refusal{status: http.StatusForbidden, code: "AccessDenied"}
		h := newHealth(Config{}.withDefaults().waits, func(error) {})
		q := newQueue(h, func(_ context.Context, name string, _ change) error {
			if name == "bad" {
				tries = append(tries, time.Now())
				return denied
			}
			return nil
		}, func(string, error) {})
		q.add("bad", write)
		ctx, cancel := context.WithCancel(t.Context())
		var working sync.WaitGroup
		defer func() { cancel(); working.Wait() }()
		working.Go(func() { q.work(ctx, 4) })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := len(tries); n < 24 || n > 40 || tries[n-1].Sub(tries[n-2]) != retryLimit {
			t.Errorf("%d tries in a day, the last %v", n, tries[max(0, n-2):])
		}
		if q.failures("bad") != len(tries) || q.status().oldest.IsZero() {
			t.Errorf("got %d failures and %+v, want %d", q.failures("bad"), q.status(), len(tries))
		}
		select {
		case <-q.await(true):
		default:
			t.Error("the queue is not settled")
		}
	})
}

// TestUploadDamaged: content that does not have its digest is never in the bucket, in one
// part or several.
func TestUploadDamaged(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	config.partSize = s3test.MinPart
	n := start(t, config)
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		for _, size := range []int{10, askFirst, s3test.MinPart + 1} {
			d := algorithm.FromString("right")
			if err := n.upload(t.Context(), d, strings.NewReader(strings.Repeat("x", size))); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("%s, %d bytes: got %v, want %v", algorithm, size, err, store.ErrDamaged)
			}
		}
	}
	if keys := server.Keys(); len(keys) != 0 || server.Uploads() != 0 {
		t.Errorf("the bucket has %v, and %d uploads are open", keys, server.Uploads())
	}
}

// TestUploadHuge: parts are large enough for any object, and content that is larger than
// an object can be is not sent.
func TestUploadHuge(t *testing.T) {
	for _, size := range []int64{partSize + 1, maxParts * partSize, maxParts*partSize + 1, maxObject - 1, maxObject} {
		part := partOf(size, partSize)
		if parts := (size + part - 1) / part; parts > maxParts || part < partSize || part > 5<<30 {
			t.Errorf("%d bytes: %d parts of %d bytes", size, parts, part)
		}
	}
	server := s3test.New(t)
	n := newNode(t, server)
	huge := io.NewSectionReader(strings.NewReader(""), 0, maxObject+1)
	if err := n.upload(t.Context(), digest.FromString("huge"), huge); err == nil || concernsBucket(err) || server.Requests("") != 0 {
		t.Errorf("got %v and %d requests", err, server.Requests(""))
	}
}

// TestUploadStalls: an upload that stands still is given up, and tried again.
func TestUploadStalls(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	config.waits.stall = 5 * time.Millisecond
	n := start(t, config)
	server.Set(s3test.Faults{Stalled: true})
	d := n.put(t, strings.Repeat("x", 8<<20))
	waitFor(t, func() bool { return n.Status().WriteError != nil })
	server.Set(s3test.Faults{})
	if n.Removable(t.Context(), d) {
		t.Error("content is removable that is not in the bucket")
	}
}

// TestQueueChangesMeanwhile: changes of an object while others are made are done as well,
// the last one at the end. The race detector checks the rest.
func TestQueueChangesMeanwhile(t *testing.T) {
	var last change
	q := newQueue(newHealth(waits{}, nil), func(_ context.Context, _ string, c change) error {
		last = c // of one change of the object at a time
		return nil
	}, nil)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		q.work(ctx, 2)
	}()
	for i := range 1000 {
		q.add("object", []change{write, remove}[i%2])
	}
	<-q.await(false)
	if last != remove {
		t.Errorf("the last change was %d, want %d", last, remove)
	}
	stop()
	<-done
}

// TestQueueCountsRetried: an object that is tried again counts as failed until it succeeds.
func TestQueueCountsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(Config{}.withDefaults().waits, func(error) {})
		q := newQueue(h, nil, func(string, error) {})
		q.add("bad", write)
		e, _, _, _ := q.next()
		q.done(e, &refusal{status: http.StatusForbidden, code: "AccessDenied"}, false)
		time.Sleep(retryLimit)
		if e, _, _, _ = q.next(); e == nil || q.status().failed != 1 {
			t.Fatalf("got %v and %+v, want the object, failed", e, q.status())
		}
		q.done(e, nil, false)
		if got := q.status(); got.failed != 0 || got.n != 0 {
			t.Errorf("after a success: %+v", got)
		}
	})
}

// TestQueueAsksForOthers checks that while the only object in a queue fails with an error that
// may be that of the bucket, an object that is added to this queue or another one does not
// wait.
func TestQueueAsksForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(Config{}.withDefaults().waits, func(error) {})
		done := make(chan string, 1)
		do := func(_ context.Context, name string, _ change) error {
			if name == "bad" {
				return errInternal
			}
			done <- name
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		var working sync.WaitGroup
		defer func() { cancel(); working.Wait() }()
		one, two := newQueue(h, do, func(string, error) {}), newQueue(h, do, func(string, error) {})
		working.Go(func() { one.work(ctx, 4) })
		working.Go(func() { two.work(ctx, 4) })
		for _, q := range []*queue{one, two} {
			one.add("bad", write)
			time.Sleep(time.Hour + time.Second)
			added := time.Now()
			q.add("good", write)
			if <-done; time.Since(added) != 0 {
				t.Errorf("another object waited for %v", time.Since(added))
			}
		}
		time.Sleep(24 * time.Hour)
		if since, _ := h.state(); !since.IsZero() || one.failures("bad") < 24 || one.failures("bad") > 40 {
			t.Errorf("a day later: failing since %v, %d tries; want a bucket that works and a try an hour", since, one.failures("bad"))
		}
	})
}
