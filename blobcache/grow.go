package blobcache

import (
	"context"
	"fmt"
)

// growStep is how much more room is reserved at a time for content of unknown
// size, where the limits leave so much.
const growStep = 16 << 20

// tooLarge tells whether content of a size, -1 if that is not known, is never
// stored.
func (k *keeper) tooLarge(size int64) bool {
	return k != nil && (k.limits.MaxBlobSize > 0 && size > k.limits.MaxBlobSize || k.limits.MaxSize > 0 && size > k.limits.MaxSize)
}

// tooLarge tells the same of a request's own limit.
func (r *Request) tooLarge(size int64) bool { return r.Limit > 0 && size > r.Limit }

// extend makes room for content of unknown size that has had some reserved and
// is now at least of a size. It returns how much it has reserved beside that.
func (k *keeper) extend(ctx context.Context, reserved, size int64) (more int64, err error) {
	if k == nil || size <= reserved {
		return 0, nil
	}
	more = max(size-reserved, growStep)
	for _, limit := range []int64{k.limits.MaxBlobSize, k.limits.MaxSize} {
		if limit <= 0 {
			continue
		}
		if size > limit {
			return 0, fmt.Errorf("more than %d bytes: %w", limit, errTooLarge)
		}
		more = min(more, limit-reserved)
	}
	if ok, _ := k.tryReserve(ctx, more); ok {
		return more, nil
	}
	// There is not so much, but perhaps enough.
	if err := k.reserve(ctx, size-reserved); err != nil {
		return 0, err
	}
	return size - reserved, nil
}

// grow reserves room for content of unknown size, as it comes.
func (f *fill) grow(ctx context.Context, n int64) error {
	if f.req.tooLarge(f.written + n) {
		return errTooLarge
	}
	more, err := f.cache.keeper.extend(ctx, f.reserved, f.written+n)
	f.reserved += more
	return err
}
