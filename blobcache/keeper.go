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
	// keepInterval is how often uses are written down and old content is
	// looked for: the most that a crash makes forgotten.
	keepInterval = 10 * time.Minute

	// keepRest is how long the keeper rests after it could not make the room
	// that was wanted: trying again at once would walk all the time.
	keepRest = 5 * time.Second
)

// keeper keeps a blobs within its limits. What it knows of the size of the
// whole comes from walking, in the background, and from what this process
// stores since; other processes on the same blobs show at the next walk.
type keeper struct {
	blobs  store.Blobs
	limits Limits
	hooks  Hooks
	clock  clock
	uses   uses
	kick   chan struct{} // a sweep is wanted now
	full   chan struct{} // uses are to be written down now

	written atomic.Int64 // bytes of the disk that fills under way have taken

	// writing is held while uses are on their way to the blobs, when neither
	// tells of them, and while content is removed that nobody has used.
	writing sync.Mutex

	mu       sync.Mutex
	stored   int64            // bytes, as of the last walk and since
	walked   bool             // all that is stored has been counted
	reserved int64            // bytes of fills under way
	groups   map[string]int64 // of them, by the group that asked
	wanted   int64            // bytes of those that wait for room
	starved  bool             // the disk was full where there should be room
	swept    chan struct{}
	reading  map[digest.Digest]int // how many read stored content
}

func newKeeper(blobs store.Blobs, limits Limits, hooks Hooks) *keeper {
	return &keeper{
		blobs: blobs, limits: limits, hooks: hooks,
		clock:   newClock(),
		kick:    make(chan struct{}, 1),
		full:    make(chan struct{}, 1),
		swept:   make(chan struct{}),
		reading: make(map[digest.Digest]int),
		groups:  make(map[string]int64),
	}
}

func (k *keeper) high() int64 { return k.limits.MaxSize / 20 * 19 }
func (k *keeper) low() int64  { return k.limits.MaxSize / 10 * 9 }

// drop removes content and counts it out.
func (k *keeper) drop(ctx context.Context, d digest.Digest, size int64) error {
	if err := k.blobs.Remove(ctx, d); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stored -= size
	return nil
}

func (k *keeper) tellEvicted(e store.Entry) {
	if k.hooks.Evicted == nil {
		return
	}
	k.mu.Lock()
	left := k.stored
	k.mu.Unlock()
	k.hooks.Evicted(e, left)
}

// failed hears of what could not be stored. If the disk was full although there
// seemed to be room, of files perhaps and not of bytes, some content has to go.
func (k *keeper) failed(err error) {
	if !store.IsFull(err) {
		return
	}
	k.mu.Lock()
	k.starved = true
	k.mu.Unlock()
	k.wantSweep()
}

func (k *keeper) wantSweep() { wake(k.kick) }

func wake(sleeper chan<- struct{}) {
	select {
	case sleeper <- struct{}{}:
	default:
	}
}

// run sweeps at the start, when room is wanted, and every so often, until ctx
// ends. Then it writes the last uses down.
func (k *keeper) run(ctx context.Context) {
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	defer func() { k.writeUses(context.WithoutCancel(ctx)) }()
	for {
		stuck, err := k.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			k.hooks.trouble("sweep", err)
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
