package blobcache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// roomPatience is how long a fill waits for room before its content is
	// passed on without being stored.
	roomPatience = 2 * time.Second

	// groupShare is the part of all room that the fills under way of one group
	// may have, if there are several.
	groupShare = 2
)

var (
	errTooLarge = errors.New("larger than may be stored")
	errNoRoom   = errors.New("no room")
)

// reservation is the room that a fill has of a shelf: of bytes that have come or
// are about to.
type reservation struct {
	group string // that asked for it, or empty
	bytes int64
}

// disk holds the space of the shelf's disk without the reserve, in bytes. Spare is
// negative when part of the reserve has been used.
type disk struct {
	known        bool
	kept         bool // a reserve is kept free
	spare, total int64
	written      int64 // by fills under way, before spare was measured
}

func (k *keeper) disk(ctx context.Context) disk {
	written := k.written.Load()
	free, total, err := k.blobs.Free(ctx)
	if err != nil {
		k.hooks.trouble("measure free disk space", err)
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

// tooLarge reports whether content of a size, -1 if that is not known, is above
// a limit of the configuration.
func (k *keeper) tooLarge(size int64) bool { return size > k.largest(0) }

// largest is the size above which content is not stored, by the configuration and
// by a limit that the caller adds, 0 for none.
func (k *keeper) largest(limit int64) int64 {
	most := int64(math.MaxInt64)
	if limit > 0 {
		most = limit
	}
	if k.limits.MaxBlobSize > 0 {
		most = min(most, k.limits.MaxBlobSize)
	}
	if k.limits.MaxSize > 0 {
		// More would take all else with it, and then be swept itself.
		most = min(most, k.low())
	}
	return most
}

// fits returns an error if content of a size, -1 if that is not known, could not
// be stored even if all else were removed. What can never fit must not make
// anything go, nor wait for it.
func (k *keeper) fits(ctx context.Context, size int64) error {
	if size <= 0 {
		return nil
	}
	if k.tooLarge(size) {
		return fmt.Errorf("%w: %d bytes where the configuration allows %d", errTooLarge, size, k.largest(0))
	}
	disk := k.disk(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if most := k.capacity(disk); size > most {
		return fmt.Errorf("%w: %d bytes where the whole cache has room for %d", errTooLarge, size, most)
	}
	return nil
}

// capacity is how many bytes can be stored in all: what the configuration allows,
// and what of the disk is free or has been taken here. Until a walk has shown how
// much that is, all of the disk counts.
func (k *keeper) capacity(disk disk) int64 {
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

// reserve makes room for so many bytes, and waits for it if need be.
func (k *keeper) reserve(ctx context.Context, r *reservation, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, roomPatience)
	defer cancel()
	for waiting := false; ; {
		wait, err := k.tryReserve(ctx, r, size)
		if err != nil || wait == nil {
			return err
		}
		if !waiting {
			// Otherwise a sweep would not see that room is missing.
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

func (k *keeper) want(more int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted += more
}

// tryReserve makes room for so many bytes if there is some. If there is none it
// returns what is closed when there may be, or an error if waiting does not help.
func (k *keeper) tryReserve(ctx context.Context, r *reservation, size int64) (wait <-chan struct{}, err error) {
	disk := k.disk(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	held := k.groups[r.group]
	if r.group != "" && held > r.bytes && held+size > k.capacity(disk)/groupShare {
		return nil, fmt.Errorf("%w: other downloads of the group %s have %d bytes", errNoRoom, r.group, held-r.bytes)
	}
	if k.limits.MaxSize > 0 && k.stored+k.reserved+size > k.limits.MaxSize {
		return k.swept, nil
	}
	if disk.kept && disk.spare-k.coming(disk.written) < size {
		return k.swept, nil
	}
	k.count(r, size)
	if k.limits.MaxSize > 0 && k.stored+k.reserved > k.high() {
		k.wantSweep()
	}
	return nil, nil
}

// count adds bytes to a reservation.
func (k *keeper) count(r *reservation, n int64) {
	r.bytes += n
	k.reserved += n
	if k.groups[r.group] += n; k.groups[r.group] == 0 {
		delete(k.groups, r.group)
	}
}

// coming is how much of the disk the fills under way will still take, if so many
// of their bytes were on it when its free space was measured. Fills that have
// ended since had some of those.
func (k *keeper) coming(written int64) int64 { return k.reserved - min(written, k.written.Load()) }

// wrote hears of bytes of a fill that are on the disk now, or that have their
// place on it.
func (k *keeper) wrote(n int64) { k.written.Add(n) }

// settle ends a reservation of which so much is on the disk: with the content
// stored, or with nothing.
func (k *keeper) settle(r *reservation, written int64, d digest.Digest, stored int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.count(r, -r.bytes)
	k.written.Add(-written)
	k.stored += stored
	if stored > 0 {
		k.used(d, false)
	}
	if k.limits.MaxSize > 0 && k.stored+k.reserved > k.high() {
		k.wantSweep()
	}
}
