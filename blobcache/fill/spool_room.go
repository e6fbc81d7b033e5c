package fill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// growStep is the largest number of bytes for which room is reserved ahead.
	// No more are reserved ahead than have come by then, so a claimed size
	// alone reserves nothing.
	growStep = 16 << 20

	// allocateFrom is the size in bytes from which blocks are allocated ahead
	// of writing. For less, it costs as much as it saves.
	allocateFrom = 1 << 20
)

// ErrTooLarge means that content is too large to be stored, so that it is passed on
// by design.
var ErrTooLarge = errors.New("too large to store")

// tooLarge reports whether content of this size exceeds the request's limit. A
// size of -1, unknown, does not.
func (r *Request) tooLarge(size int64) bool { return r.Limit > 0 && size > r.Limit }

// hold counts n bytes of room, negative if it is given back, against quotas.
func (r *Request) hold(n int64) (ok bool) { return r.Reserve == nil || r.Reserve(n) }

// openSpool returns a spool for content of this size, -1 if it is not known,
// unless it can never be stored. Room is reserved later, as the bytes come.
func (f *fill) openSpool(ctx context.Context, size int64) (*os.File, error) {
	if f.req.tooLarge(size) {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, f.req.Limit)
	}
	if err := f.table.config.Room.Fits(ctx, size); err != nil {
		return nil, err
	}
	return f.table.config.Blobs.Spool(ctx)
}

// makeRoom reserves room for n bytes that have come for a segment, and for some
// of the following ones. It returns how many of the n bytes have no allocated
// blocks.
func (f *fill) makeRoom(ctx context.Context, seg *segment, n int64) (bare int64, err error) {
	if err := f.growing.Acquire(ctx, 1); err != nil {
		return 0, context.Cause(ctx)
	}
	defer f.growing.Release(1)
	from, to := seg.at, seg.at+n
	most := f.table.config.Room.Largest(f.req.Limit)
	if f.size < 0 && to > most {
		return 0, fmt.Errorf("more than %d bytes came: %w", most, ErrTooLarge)
	}
	f.received += n
	gaps := f.room.gaps(from, to)
	if len(gaps) > 0 {
		ahead := f.room.gaps(from, min(to+min(f.received, growStep), seg.end, most))
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

// tryRoom reserves room for n bytes if there is some now.
func (f *fill) tryRoom(ctx context.Context, n int64) (ok bool) {
	if !f.req.hold(n) {
		return false
	}
	if !f.reserved.Try(ctx, n) {
		f.req.hold(-n)
		return false
	}
	f.held += n
	return true
}

// needRoom reserves room for n bytes and waits for it.
func (f *fill) needRoom(ctx context.Context, n int64) error {
	if !f.req.hold(n) {
		return fmt.Errorf("%w: the quota has no room beside other downloads", ErrTooLarge)
	}
	if err := f.reserved.Reserve(ctx, n); err != nil {
		f.req.hold(-n)
		return err
	}
	f.held += n
	return nil
}

// takeBlocks allocates the disk's blocks for an extent before its bytes come,
// so that the pieces of several workers are not scattered and writes need not
// look for blocks. It does nothing if that is slow or unreliable, or if the
// size is not known.
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
	f.reserved.Wrote(n)
}

// trim frees allocated blocks for bytes that will not come. A reader may keep
// the spool open for long.
func (f *fill) trim() {
	if f.onDisk.Load() <= f.written {
		return
	}
	if info, err := f.file.Stat(); err == nil {
		_ = f.file.Truncate(info.Size())
	}
}

// settle gives back the reserved room, except for the `stored` bytes of content
// that was stored.
func (f *fill) settle(stored int64) {
	f.reserved.Close(f.digest, stored)
	f.req.hold(-f.held)
	f.held = 0
}

// passedOn reports whether content is passed on without being stored by design,
// so that err is not a storage error.
func passedOn(err error) bool { return errors.Is(err, ErrTooLarge) }

// extent is a range of a spool for which room is reserved.
type extent struct {
	from, to int64
	blocks   bool // the disk's blocks for it have been taken
}

// extents are the extents of a spool, in order and without overlap.
type extents []extent

// gaps returns the ranges between two offsets that are in no extent.
func (e extents) gaps(from, to int64) (gaps []extent) {
	for _, x := range e {
		if x.to <= from {
			continue
		}
		if x.from >= to {
			break
		}
		if from < x.from {
			gaps = append(gaps, extent{from: from, to: x.from})
		}
		from = x.to
	}
	if from < to {
		gaps = append(gaps, extent{from: from, to: to})
	}
	return gaps
}

// add adds a range that was a gap, and merges neighbors.
func (e *extents) add(x extent) {
	i, _ := slices.BinarySearchFunc(*e, x.from, func(x extent, from int64) int { return cmp.Compare(x.from, from) })
	list := slices.Insert(*e, i, x)
	for _, at := range []int{i, i - 1} {
		if at >= 0 && at+1 < len(list) && list[at].to == list[at+1].from && list[at].blocks == list[at+1].blocks {
			list[at].to = list[at+1].to
			list = slices.Delete(list, at+1, at+2)
		}
	}
	*e = list
}

// bare returns the number of bytes between two offsets without allocated
// blocks.
func (e extents) bare(from, to int64) int64 {
	n := to - from
	for _, x := range e {
		if x.blocks {
			n -= max(min(x.to, to)-max(x.from, from), 0)
		}
	}
	return n
}

func length(list []extent) (n int64) {
	for _, x := range list {
		n += x.to - x.from
	}
	return n
}
