package blobcache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// keepInterval is how often uses are written down and unused content is
	// looked for. A crash loses the uses of at most this long.
	keepInterval = 10 * time.Minute

	// keepRest is the pause after a sweep that could not make the room that was
	// needed. Without it the evictor would walk all the time.
	keepRest = 5 * time.Second
)

// evictor keeps the stored content within its limits. It learns the total size
// from walks in the background and from what this process stores; content that
// other processes store in the same place shows at the next walk.
type evictor struct {
	blobs  store.Blobs
	limits Limits
	hooks  Hooks
	clock  clock
	uses   uses
	kick   chan struct{} // a sweep is wanted now
	full   chan struct{} // uses are to be written down now
	seen   seenDisk      // for Usage

	written atomic.Int64 // bytes of the disk that fills under way have taken

	// writing is held while uses are moved from memory to disk, when neither
	// has them, and while unused content is removed.
	writing sync.Mutex

	mu       sync.Mutex
	stored   int64            // bytes, as of the last walk and since
	entries  int              // contents, likewise
	walked   bool             // all that is stored has been counted
	reserved int64            // bytes of fills under way
	groups   map[string]int64 // the reserved bytes by the group that asked for them
	wanted   int64            // bytes for which fills wait
	starved  bool             // the disk was full although it seemed to have room
	swept    chan struct{}
	reading  map[digest.Digest]int // number of readers of stored content
}

func newEvictor(blobs store.Blobs, limits Limits, hooks Hooks) *evictor {
	return &evictor{
		blobs: blobs, limits: limits, hooks: hooks,
		clock:   newClock(),
		kick:    make(chan struct{}, 1),
		full:    make(chan struct{}, 1),
		swept:   make(chan struct{}),
		reading: make(map[digest.Digest]int),
		groups:  make(map[string]int64),
	}
}

func (k *evictor) high() int64 { return k.limits.MaxSize / 20 * 19 }
func (k *evictor) low() int64  { return k.limits.MaxSize / 10 * 9 }

// drop removes content and subtracts it from the total.
func (k *evictor) drop(ctx context.Context, d digest.Digest, size int64) error {
	if err := k.blobs.Remove(ctx, d); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stored -= size
	if size > 0 {
		k.entries--
	}
	return nil
}

func (k *evictor) reportEvicted(e store.Entry, why Reason) {
	if k.hooks.Evicted == nil {
		return
	}
	k.mu.Lock()
	left := k.stored
	k.mu.Unlock()
	k.hooks.Evicted(e, why, left)
}

// Failed implements [fill.Room]. If the disk is full although there seemed to be
// room (it may have run out of files rather than bytes), some content must go.
func (k *evictor) Failed(err error) {
	if !store.IsFull(err) {
		return
	}
	k.mu.Lock()
	k.starved = true
	k.mu.Unlock()
	k.wantSweep()
}

func (k *evictor) wantSweep() { wake(k.kick) }

func wake(sleeper chan<- struct{}) {
	select {
	case sleeper <- struct{}{}:
	default:
	}
}

// run sweeps at the start, when a fill needs room, and every keepInterval,
// until ctx ends. Then it writes the last uses down.
func (k *evictor) run(ctx context.Context) {
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	defer func() { k.writeUses(context.WithoutCancel(ctx)) }()
	for {
		stuck, err := k.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			k.hooks.storageError("sweep", err)
		}
		if stuck && !store.Pause(ctx, keepRest) {
			return
		}
		for wanted := false; !wanted; {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				wanted = true
			case <-k.kick:
				wanted = true
			case <-k.full:
				k.writeUses(ctx)
			}
		}
	}
}
