package blobcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// roomPatience is how long a fill waits for room before its content is
	// passed on without being stored.
	roomPatience = 2 * time.Second

	// keepInterval is how often uses are written down and old content is
	// looked for: the most that a crash makes forgotten.
	keepInterval = 10 * time.Minute

	// keepRest is how long the keeper rests after it could not make the room
	// that was wanted: trying again at once would walk all the time.
	keepRest = 5 * time.Second
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
	clock  clock
	uses   uses
	kick   chan struct{} // a sweep is wanted now
	full   chan struct{} // uses are to be written down now

	written atomic.Int64 // bytes of the disk that fills under way have taken

	// writing is held while uses are on their way to the shelf, when neither
	// tells of them, and while content is removed that nobody has used.
	writing sync.Mutex

	mu       sync.Mutex
	stored   int64 // bytes, as of the last walk and since
	reserved int64 // bytes of fills under way
	wanted   int64 // bytes of those that wait for room
	starved  bool  // the disk was full where there should be room
	swept    chan struct{}
	reading  map[digest.Digest]int // how many read stored content
}

func newKeeper(shelf Shelf, limits Limits, hooks Hooks) *keeper {
	return &keeper{
		shelf: shelf, limits: limits, hooks: hooks,
		clock:   newClock(),
		kick:    make(chan struct{}, 1),
		full:    make(chan struct{}, 1),
		swept:   make(chan struct{}),
		reading: make(map[digest.Digest]int),
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
	for waiting := false; ; {
		ok, swept := k.tryReserve(ctx, size)
		if ok {
			return nil
		}
		if !waiting {
			// Else a sweep would see that all is well, and not for whom it is not.
			waiting = true
			k.want(size)
			defer k.want(-size)
		}
		k.wantSweep()
		select {
		case <-swept:
		case <-ctx.Done():
			return fmt.Errorf("%w for %d bytes", errNoRoom, size)
		}
	}
}

func (k *keeper) want(more int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted += more
}

func (k *keeper) tryReserve(ctx context.Context, size int64) (ok bool, swept <-chan struct{}) {
	spare, written, known := k.spare(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.limits.MaxSize > 0 && k.stored+k.reserved+size > k.limits.MaxSize {
		return false, k.swept
	}
	if known && spare-k.coming(written) < size {
		return false, k.swept
	}
	k.reserved += size
	if k.limits.MaxSize > 0 && k.stored+k.reserved > k.high() {
		k.wantSweep()
	}
	return true, nil
}

// coming is how much of the disk the fills under way will still take, if so many
// of their bytes were on it when its free space was measured. Fills that have
// ended since had some of those.
func (k *keeper) coming(written int64) int64 { return k.reserved - min(written, k.written.Load()) }

// wrote hears of bytes of a fill that are on the disk now, or that have their
// place on it.
func (k *keeper) wrote(n int64) {
	if k != nil {
		k.written.Add(n)
	}
}

// spare is how much of the free disk space may be used, if that is known, and how
// much fills had written before it was measured. It is less than nothing when the
// reserve itself has been used.
func (k *keeper) spare(ctx context.Context) (spare, written int64, known bool) {
	if k.limits.Reserve < 0 {
		return 0, 0, false
	}
	written = k.written.Load()
	free, total, err := k.shelf.Free(ctx)
	if err != nil {
		k.hooks.trouble("measure free disk space", err)
	}
	if err != nil || total <= 0 {
		return 0, 0, false
	}
	if k.limits.Reserve > 0 {
		return free - k.limits.Reserve, written, true
	}
	return free - min(total/20, maxDefaultReserve), written, true
}

// settle ends a reservation of which so much has been written: with the content
// stored, or with nothing.
func (k *keeper) settle(reserved, written int64, d digest.Digest, stored int64) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reserved -= max(reserved, 0)
	k.written.Add(-written)
	k.stored += stored
	if stored > 0 {
		k.used(d, false)
	}
	if k.limits.MaxSize > 0 && k.stored+k.reserved > k.high() {
		k.wantSweep()
	}
}

func (k *keeper) high() int64 { return k.limits.MaxSize / 20 * 19 }
func (k *keeper) low() int64  { return k.limits.MaxSize / 10 * 9 }

// drop removes content and counts it out.
func (k *keeper) drop(ctx context.Context, d digest.Digest, size int64) error {
	if err := k.shelf.Remove(ctx, d); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stored -= size
	return nil
}

func (k *keeper) tellEvicted(e Entry) {
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
	if k == nil || !diskFull(err) {
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
		if stuck && !pause(ctx, keepRest) {
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

// pause waits for some time and tells whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
