package bucket

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestPullsGoFirst: while there is a pull, one upload goes on and the others send a buffer
// now and then. All go on without one.
func TestPullsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pulls
		ctx, cancel := context.WithCancel(t.Context())
		var uploads sync.WaitGroup
		defer func() { cancel(); uploads.Wait() }()
		sent := make([]atomic.Int64, 3)
		for i := range sent {
			uploads.Go(func() {
				wait, end := p.turn(ctx)
				defer end()
				for ctx.Err() == nil {
					wait()
					sent[i].Add(1)
					time.Sleep(time.Second) // that the buffer takes
				}
			})
		}
		span := func() (total, most int64) {
			for i := range sent {
				sent[i].Store(0)
			}
			time.Sleep(1000 * time.Second)
			synctest.Wait()
			for i := range sent {
				n := sent[i].Load()
				total, most = total+n, max(most, n)
			}
			return total, most
		}
		if total, most := span(); total < 2990 {
			t.Errorf("without a pull: %d buffers, at most %d of one upload; want 3000", total, most)
		}
		done := p.fetching()
		if total, most := span(); most < 990 || total-most < 100 || total-most > 200 {
			t.Errorf("with a pull: %d buffers, %d of one upload; want 1000 of one, and less than 200 of the others", total, most)
		}
		done()
		if total, most := span(); total < 2990 {
			t.Errorf("after the pull: %d buffers, at most %d of one upload; want 3000", total, most)
		}
	})
}

// TestPullsAfterEnd: an upload that has ended does not keep the others back, although the
// transport may still read its body.
func TestPullsAfterEnd(t *testing.T) {
	var p pulls
	defer p.fetching()()
	wait, end := p.turn(t.Context())
	end()
	wait()
	if !p.lane.TryLock() {
		t.Error("an upload that has ended holds up the others")
	}
}

// TestPullsAreKnown: a download is a pull until its file is closed, and so is content of
// the bucket until its body is.
func TestPullsAreKnown(t *testing.T) {
	server := s3test.New(t)
	n := newNode(t, server)
	spool, err := n.Spool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !n.pulls.any() {
		t.Error("a download is not known")
	}
	_ = spool.Close()
	_ = os.Remove(filepath.Clean(spool.Name()))
	if n.pulls.any() {
		t.Error("a download is known that has ended")
	}
	d := digest.FromString(someContent)
	server.Put(objectOf(d), []byte(strings.Clone(someContent)))
	body, _, err := n.Fetch(t.Context(), d, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if !n.pulls.any() {
		t.Error("a body is not known")
	}
	_ = body.Close()
	_ = body.Close()
	if n.pulls.any() {
		t.Error("a body is known that is closed")
	}
}
