package bucket

import (
	"context"
	"os"
	"slices"
	"sync"
	"time"
	"weak"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// pulls makes uploads give way to pulls that are not served from the local tier: while there
// are any, only one upload goes on. The others send a little now and then, so that the object
// store does not end them.
type pulls struct {
	mu      sync.Mutex
	fetches int                     // bodies of [Store.Fetch] that are open
	spools  []weak.Pointer[os.File] // of downloads; one that is closed has ended

	lane sync.Mutex // held by the upload that goes on
}

const (
	// pullPoll is how often an upload looks whether it may go on, and pullPatience how
	// long it waits until it sends a buffer all the same.
	pullPoll     = 100 * time.Millisecond
	pullPatience = 10 * time.Second
)

// Spool implements [store.Blobs].
func (s *Store) Spool(ctx context.Context) (*os.File, error) {
	file, err := s.FileStore.Spool(ctx)
	if err == nil {
		s.pulls.mu.Lock()
		defer s.pulls.mu.Unlock()
		s.pulls.prune()
		s.pulls.spools = append(s.pulls.spools, weak.Make(file))
	}
	return file, err
}

// prune forgets the downloads that have ended.
func (p *pulls) prune() {
	p.spools = slices.DeleteFunc(p.spools, func(spool weak.Pointer[os.File]) bool {
		file := spool.Value()
		if file == nil {
			return true
		}
		_, err := file.Stat()
		return err != nil
	})
}

// fetching counts a body until done is called.
func (p *pulls) fetching() (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fetches++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.fetches--
	})
}

func (p *pulls) any() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prune()
	return p.fetches > 0 || len(p.spools) > 0
}

// turn returns a function that an upload calls before it sends a buffer, and that waits
// while it is another one's turn. End must be called when the upload has ended. A wait
// that is running then, or begins later, returns soon: a transport may read the body of a
// request after it has returned.
func (p *pulls) turn(ctx context.Context) (wait, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	held := false
	wait = func() {
		mu.Lock()
		defer mu.Unlock()
		for limit := time.Now().Add(pullPatience); !held && p.any() && ctx.Err() == nil && time.Now().Before(limit); {
			if held = p.lane.TryLock(); !held {
				store.Pause(ctx, pullPoll)
			}
		}
	}
	end = func() {
		cancel()
		mu.Lock()
		defer mu.Unlock()
		if held {
			p.lane.Unlock()
		}
	}
	return wait, end
}
