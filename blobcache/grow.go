package blobcache

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// growStep is how much room is taken ahead of the bytes, at most. It is never
	// more than has come by then: a claimed size takes nothing.
	growStep = 16 << 20

	// allocateFrom is the size in bytes from which the blocks for a stretch of a
	// spool are taken in one go. Below it that would cost as much as it saves.
	allocateFrom = 1 << 20
)

// tooLarge reports whether content of a size, -1 if that is not known, is above
// the request's own limit.
func (r *Request) tooLarge(size int64) bool { return r.Limit > 0 && size > r.Limit }

// hold counts room that a fill takes, or gives back, against quotas.
func (r *Request) hold(n int64) (ok bool) { return r.Reserve == nil || r.Reserve(n) }

// openSpool returns a spool for content of a size, -1 if unknown, unless that
// can never be stored. It has no room yet: that is taken as the bytes come.
func (f *fill) openSpool(ctx context.Context, size int64) (*os.File, error) {
	if f.req.tooLarge(size) {
		return nil, fmt.Errorf("%w: %d bytes where %d are allowed", errTooLarge, size, f.req.Limit)
	}
	if err := f.cache.keeper.fits(ctx, size); err != nil {
		return nil, err
	}
	return f.cache.blobs.Spool(ctx)
}

// makeRoom takes room for n bytes that have come for a segment, and for some of
// those that follow. It returns how many of the n have no blocks on the disk yet:
// these are taken by being written.
func (f *fill) makeRoom(ctx context.Context, seg *segment, n int64) (bare int64, err error) {
	if err := f.growing.Acquire(ctx, 1); err != nil {
		return 0, context.Cause(ctx)
	}
	defer f.growing.Release(1)
	from, to := seg.at, seg.at+n
	most := f.cache.keeper.largest(f.req.Limit)
	if f.size < 0 && to > most {
		return 0, fmt.Errorf("more than %d bytes: %w", most, errTooLarge)
	}
	f.come += n
	gaps := f.room.gaps(from, to)
	if len(gaps) > 0 {
		ahead := f.room.gaps(from, min(to+min(f.come, growStep), seg.end, most))
		if f.tryRoom(ctx, length(ahead)) {
			gaps = ahead
		} else if err := f.needRoom(ctx, length(gaps)); err != nil {
			return 0, err
		}
	}
	for _, gap := range gaps {
		if gap.blocks, err = f.takeBlocks(gap); err != nil {
			return 0, err
		}
		f.room.add(gap)
	}
	return f.room.bare(from, to), nil
}

// tryRoom takes room if there is some now.
func (f *fill) tryRoom(ctx context.Context, n int64) (ok bool) {
	if !f.req.hold(n) {
		return false
	}
	if wait, err := f.cache.keeper.tryReserve(ctx, &f.reserved, n); err != nil || wait != nil {
		f.req.hold(-n)
		return false
	}
	return true
}

// needRoom takes room, and waits for it.
func (f *fill) needRoom(ctx context.Context, n int64) error {
	if !f.req.hold(n) {
		return fmt.Errorf("%w: the quota has no room for it beside other downloads", errTooLarge)
	}
	err := f.cache.keeper.reserve(ctx, &f.reserved, n)
	if err != nil {
		f.req.hold(-n)
	}
	return err
}

// takeBlocks takes the disk's blocks for a stretch before its bytes arrive: the
// pieces of several workers lie in few stretches, and no write has to look for
// blocks. Where that is not sure or not quick, and where the end is not known,
// they come with the bytes.
func (f *fill) takeBlocks(x extent) (ok bool, err error) {
	n := x.to - x.from
	if n < allocateFrom || f.size < 0 || f.noBlocks {
		return false, nil
	}
	err = allocateBlocks(f.file, x.from, n)
	if store.IsFull(err) {
		return false, fmt.Errorf("allocate %d bytes: %w", n, err)
	}
	if err != nil {
		f.noBlocks = true
		return false, nil
	}
	f.wrote(n)
	return true, nil
}

// wrote counts bytes of the disk that the spool has taken.
func (f *fill) wrote(n int64) {
	f.onDisk.Add(n)
	f.cache.keeper.wrote(n)
}

// trim gives back the blocks for bytes that will not come: a reader may keep the
// spool open for long.
func (f *fill) trim() {
	if f.onDisk.Load() <= f.written {
		return
	}
	if info, err := f.file.Stat(); err == nil {
		_ = f.file.Truncate(info.Size())
	}
}

// settle gives back the room that was reserved, but for what was stored.
func (f *fill) settle(stored int64) {
	reserved := f.reserved.bytes
	f.cache.keeper.settle(&f.reserved, f.onDisk.Load(), f.digest, stored)
	f.req.hold(-reserved)
}

// passedOn reports whether an error is of content that is passed on without being
// stored, as it should be.
func passedOn(err error) bool { return errors.Is(err, errTooLarge) }
