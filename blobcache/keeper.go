package blobcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Limits bound what a cache keeps. A zero is no bound, but for Reserve.
type Limits struct {
	// MaxSize is of all stored content and all that is being stored, in
	// bytes. Above nine tenths and a half of it, what was least recently
	// used goes, down to nine tenths.
	MaxSize int64

	// UnusedFor is how long content that nobody asks for is kept.
	UnusedFor time.Duration

	// MaxBlobSize is the size in bytes above which content is passed on
	// without being stored.
	MaxBlobSize int64

	// Reserve is how many bytes of the disk are left free for others. Zero
	// is a twentieth of the disk and at most 1 GiB; a negative number none.
	Reserve int64

	// StopAbandoned ends a fill that nobody reads any more, unless it is
	// nearly done. By default every fill goes on to its end.
	StopAbandoned bool
}

const maxDefaultReserve = 1 << 30

// Entry is stored content as a sweep sees it.
type Entry struct {
	Digest digest.Digest
	Size   int64 // in bytes
	Used   time.Time
}

// Shelf is a [Store] whose content can be kept within bounds.
type Shelf interface {
	Store

	// Walk visits all stored content in any order, without holding it all
	// in memory, and stops at the first error that visit returns. What
	// comes or goes meanwhile may be visited or not.
	Walk(ctx context.Context, visit func(Entry) error) error

	// Touch records when content was last used, so that a later Walk, also
	// of another process, tells it.
	Touch(ctx context.Context, d digest.Digest, used time.Time) error

	// Free returns how many bytes of disk are free, and how many there are;
	// zeros if that is not known.
	Free(ctx context.Context) (free, total int64, err error)
}

const (
	// roomPatience is how long a fill waits for room before its content is
	// passed on without being stored.
	roomPatience = 2 * time.Second

	// keepInterval is how often uses are written down and old content is
	// looked for: the most that a crash makes forgotten.
	keepInterval = 10 * time.Minute

	// usesLimit is how many uses are remembered before they are written
	// down early: some 8 MiB.
	usesLimit = 64 << 10
)

var (
	errTooLarge = errors.New("larger than may be stored")
	errNoRoom   = errors.New("no room")
)

// keeper keeps a shelf within its limits. What it knows of the size of the
// whole comes from walking, in the background, and from what this process
// stores since; other processes on the same shelf show at the next walk. A nil
// keeper has no limits.
type keeper struct {
	shelf  Shelf
	limits Limits
	hooks  Hooks
	kick   chan struct{} // a sweep is wanted now

	mu       sync.Mutex
	stored   int64 // bytes, as of the last walk and since
	reserved int64 // bytes of fills under way
	swept    chan struct{}
	uses     map[digest.Digest]time.Time
}

func newKeeper(shelf Shelf, limits Limits, hooks Hooks) *keeper {
	return &keeper{
		shelf: shelf, limits: limits, hooks: hooks,
		kick:  make(chan struct{}, 1),
		swept: make(chan struct{}),
		uses:  make(map[digest.Digest]time.Time),
	}
}

// reserve makes room for content of a size before its bytes arrive. Unknown
// sizes are let in and counted when they are stored.
func (k *keeper) reserve(ctx context.Context, size int64) error {
	if k == nil {
		return nil
	}
	size = max(size, 0)
	if k.limits.MaxBlobSize > 0 && size > k.limits.MaxBlobSize {
		return errTooLarge
	}
	if k.limits.MaxSize > 0 && size > k.limits.MaxSize {
		return fmt.Errorf("%w than the whole cache", errTooLarge)
	}
	ctx, cancel := context.WithTimeout(ctx, roomPatience)
	defer cancel()
	for {
		ok, swept := k.tryReserve(ctx, size)
		if ok {
			return nil
		}
		k.wantSweep()
		select {
		case <-swept:
		case <-ctx.Done():
			return fmt.Errorf("%w for %d bytes", errNoRoom, size)
		}
	}
}

func (k *keeper) tryReserve(ctx context.Context, size int64) (ok bool, swept <-chan struct{}) {
	spare, known := k.spare(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.limits.MaxSize > 0 && k.stored+k.reserved+size > k.limits.MaxSize {
		return false, k.swept
	}
	// What is reserved has not been written yet, or not all of it.
	if known && spare-k.reserved < size {
		return false, k.swept
	}
	k.reserved += size
	if k.limits.MaxSize > 0 && k.stored+k.reserved > k.high() {
		k.wantSweep()
	}
	return true, nil
}

// spare is how much of the free disk space may be used, if that is known. It
// is less than nothing when the reserve itself has been used.
func (k *keeper) spare(ctx context.Context) (spare int64, known bool) {
	if k.limits.Reserve < 0 {
		return 0, false
	}
	free, total, err := k.shelf.Free(ctx)
	if err != nil {
		k.hooks.trouble("measure free disk space", err)
	}
	if err != nil || total <= 0 {
		return 0, false
	}
	if k.limits.Reserve > 0 {
		return free - k.limits.Reserve, true
	}
	return free - min(total/20, maxDefaultReserve), true
}

// settle ends a reservation: with the content stored, or with nothing.
func (k *keeper) settle(reserved int64, d digest.Digest, stored int64) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reserved -= max(reserved, 0)
	k.stored += stored
	if stored > 0 {
		k.uses[d] = time.Now()
	}
	if k.limits.MaxSize > 0 && k.stored+k.reserved > k.high() {
		k.wantSweep()
	}
}

func (k *keeper) high() int64 { return k.limits.MaxSize / 20 * 19 }
func (k *keeper) low() int64  { return k.limits.MaxSize / 10 * 9 }

// used remembers that content was asked for. It is written down later, so that
// a pull costs no write.
func (k *keeper) used(d digest.Digest) {
	if k == nil {
		return
	}
	k.mu.Lock()
	k.uses[d] = time.Now()
	full := len(k.uses) >= usesLimit
	k.mu.Unlock()
	if full {
		k.wantSweep()
	}
}

func (k *keeper) wantSweep() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// run sweeps at the start, when room is wanted, and every so often, until ctx
// ends. Then it writes the last uses down.
func (k *keeper) run(ctx context.Context) {
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	for {
		if err := k.sweep(ctx); err != nil && ctx.Err() == nil {
			k.hooks.trouble("sweep", err)
		}
		select {
		case <-ctx.Done():
			k.writeUses(context.WithoutCancel(ctx))
			return
		case <-ticker.C:
		case <-k.kick:
		}
	}
}

// writeUses tells the shelf what was used since the last time.
func (k *keeper) writeUses(ctx context.Context) {
	k.mu.Lock()
	uses := k.uses
	k.uses = make(map[digest.Digest]time.Time)
	k.mu.Unlock()
	for d, at := range uses {
		if err := k.shelf.Touch(ctx, d, at); err != nil {
			k.hooks.trouble("record a use", err)
			return
		}
	}
}
