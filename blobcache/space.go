package blobcache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

const (
	// roomPatience is how long a fill waits for room. After that its content is
	// passed on without being stored.
	roomPatience = 2 * time.Second

	// groupShare limits the room of a group's running fills to 1/groupShare of
	// all room, as soon as it has more than one.
	groupShare = 2
)

var errNoRoom = errors.New("no room")

// reservation is the room that a fill has reserved, for bytes that have come or
// are about to.
type reservation struct {
	evictor *evictor
	group   string       // that asked for it, or empty
	bytes   int64        // guarded by the evictor's lock
	written atomic.Int64 // bytes of it that are on the disk
}

// Open implements [fill.Room].
func (k *evictor) Open(group string) fill.Reservation { return &reservation{evictor: k, group: group} }

// Try implements [fill.Reservation].
func (r *reservation) Try(ctx context.Context, n int64) (ok bool) {
	wait, err := r.evictor.tryReserve(ctx, r, n)
	return err == nil && wait == nil
}

// Reserve implements [fill.Reservation].
func (r *reservation) Reserve(ctx context.Context, n int64) error {
	return r.evictor.reserve(ctx, r, n)
}

// Wrote implements [fill.Reservation].
func (r *reservation) Wrote(n int64) {
	r.written.Add(n)
	r.evictor.written.Add(n)
}

// Close implements [fill.Reservation].
func (r *reservation) Close(d digest.Digest, stored int64) {
	if stored > 0 {
		r.evictor.used(d, false) // before a sweep can find it
	}
	r.evictor.settle(r, stored)
}

// disk describes the disk's space without the reserve, in bytes. Spare is
// negative if part of the reserve is in use.
type disk struct {
	known        bool
	kept         bool // a reserve is kept free
	spare, total int64
	written      int64 // by fills under way, before spare was measured
}

func (k *evictor) disk(ctx context.Context) disk {
	written := k.written.Load()
	free, total, err := k.blobs.Free(ctx)
	if err != nil {
		k.hooks.storageError("measure free disk space", err)
	}
	if err != nil || total <= 0 {
		return disk{}
	}
	reserve := max(k.limits.Reserve, 0)
	if k.limits.Reserve == 0 {
		reserve = min(total/20, maxDefaultReserve)
	}
	return disk{known: true, kept: k.limits.Reserve >= 0, spare: free - reserve, total: total - reserve, written: written}
}

// Largest implements [fill.Room].
func (k *evictor) Largest(limit int64) int64 {
	most := int64(math.MaxInt64)
	if limit > 0 {
		most = limit
	}
	if k.limits.MaxBlobSize > 0 {
		most = min(most, k.limits.MaxBlobSize)
	}
	if k.limits.MaxSize > 0 {
		// Larger content would evict everything else, and then itself.
		most = min(most, k.low())
	}
	return most
}

// Fits implements [fill.Room]. Content that does not fit must neither evict anything
// nor wait for room.
func (k *evictor) Fits(ctx context.Context, size int64) error {
	if size <= 0 {
		return nil
	}
	if size > k.Largest(0) {
		return fmt.Errorf("%w: %d bytes, the configuration allows %d", fill.ErrTooLarge, size, k.Largest(0))
	}
	disk := k.disk(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if most := k.capacity(disk); size > most {
		return fmt.Errorf("%w: %d bytes, the whole cache has room for %d", fill.ErrTooLarge, size, most)
	}
	return nil
}

// capacity returns how many bytes can be stored in all: at most what the
// configuration allows, and what is free or in use by the cache on the disk.
// Until the first walk has measured the latter, the whole disk counts.
func (k *evictor) capacity(disk disk) int64 {
	most := int64(math.MaxInt64)
	if k.limits.MaxSize > 0 {
		most = k.limits.MaxSize
	}
	if disk.known {
		most = min(most, disk.total)
	}
	if disk.known && k.walked {
		most = min(most, disk.spare+disk.written+k.stored)
	}
	return max(most, 0)
}

// reserve reserves room for size bytes and waits for it for up to roomPatience.
func (k *evictor) reserve(ctx context.Context, r *reservation, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, roomPatience)
	defer cancel()
	for waiting := false; ; {
		wait, err := k.tryReserve(ctx, r, size)
		if err != nil || wait == nil {
			return err
		}
		if !waiting {
			// The next sweep must know that this room is missing.
			waiting = true
			k.want(size)
			defer k.want(-size)
		}
		k.wantSweep()
		select {
		case <-wait:
		case <-ctx.Done():
			return fmt.Errorf("%w for %d bytes", errNoRoom, size)
		}
	}
}

func (k *evictor) want(more int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted += more
}

// tryReserve reserves room for size bytes if there is some now. Otherwise it
// returns a channel that is closed after the next sweep, or an error if waiting
// does not help.
func (k *evictor) tryReserve(ctx context.Context, r *reservation, size int64) (wait <-chan struct{}, err error) {
	disk := k.disk(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	held := k.groups[r.group]
	if r.group != "" && held > r.bytes && held+size > k.capacity(disk)/groupShare {
		return nil, fmt.Errorf("%w: other downloads of the group %s have reserved %d bytes", errNoRoom, r.group, held-r.bytes)
	}
	if k.limits.MaxSize > 0 && k.stored+k.reserved+size > k.limits.MaxSize {
		return k.swept, nil
	}
	if disk.kept && disk.spare-k.coming(disk.written) < size {
		return k.swept, nil
	}
	k.count(r, size)
	k.sweepIfHigh()
	return nil, nil
}

// count adds n bytes, which may be negative, to a reservation. The caller holds
// mu.
func (k *evictor) count(r *reservation, n int64) {
	r.bytes += n
	k.reserved += n
	if k.groups[r.group] += n; k.groups[r.group] == 0 {
		delete(k.groups, r.group)
	}
}

// coming returns the bytes that running fills have reserved but not written,
// given that `written` bytes were already on disk when the free space was
// measured.
func (k *evictor) coming(written int64) int64 { return k.reserved - min(written, k.written.Load()) }

// settle ends a reservation. Stored is the size of the content that was stored,
// or 0.
func (k *evictor) settle(r *reservation, stored int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.count(r, -r.bytes)
	k.written.Add(-r.written.Load())
	k.stored += stored
	if stored > 0 {
		k.entries++
	}
	k.sweepIfHigh()
}

// sweepIfHigh requests a sweep if the stored and reserved bytes are close to
// MaxSize. The caller holds mu.
func (k *evictor) sweepIfHigh() {
	if k.limits.MaxSize > 0 && k.stored+k.reserved > k.high() {
		k.wantSweep()
	}
}
