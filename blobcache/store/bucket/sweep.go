package bucket

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// sweepInterval is how often a node sweeps the bucket, and usesInterval how often it
	// writes down what it has used. The first sweep is at a random time in the first
	// hour, so that nodes that start together do not sweep together; it does no harm if
	// they do.
	sweepInterval = day
	usesInterval  = 6 * time.Hour
	firstSweep    = time.Hour

	// sweepRest is the pause after each removal.
	sweepRest = 10 * time.Millisecond

	// keepUses is how long it is kept what was used on a day if UnusedFor is shorter.
	keepUses = 30 * day
)

// stored is content in the bucket.
type stored struct {
	digest digest.Digest
	size   int64
	used   time.Time
}

// keepSwept sweeps the bucket every day, until ctx ends.
func (s *Store) keepSwept(ctx context.Context) {
	if s.config.MaxSize <= 0 && s.config.UnusedFor <= 0 {
		return
	}
	next := time.Now().Add(rand.N(firstSweep))
	for {
		if !store.Pause(ctx, min(time.Until(next), usesInterval)) {
			return
		}
		now := time.Now()
		err := s.saveUses(ctx, now)
		if err == nil && !now.Before(next) {
			next = now.Add(sweepInterval)
			_, err = s.sweep(ctx, now)
		}
		if err != nil && ctx.Err() == nil {
			s.config.StorageError("sweep the bucket", err)
			next = now.Add(usesInterval)
		}
	}
}

// sweep removes the content from the bucket that no node has used for UnusedFor, and
// the least recently used content until MaxSize holds. It returns the number of objects
// that it removed. It has the digests of all content in the bucket in memory, some 200
// bytes for each.
func (s *Store) sweep(ctx context.Context, now time.Time) (removed int, err error) {
	from := now.Add(-max(s.config.UnusedFor, keepUses) - 2*day)
	uses := make(map[digest.Digest]time.Time)
	if err := s.readUses(ctx, uses, from); err != nil {
		return 0, err
	}
	all, total, err := s.listStored(ctx, uses)
	if err != nil {
		return 0, err
	}
	slices.SortFunc(all, func(a, b stored) int { return a.used.Compare(b.used) })
	goal := total
	if s.config.MaxSize > 0 && total > s.config.MaxSize {
		goal = s.config.MaxSize / 20 * 19
	}
	isVictim := func(o stored) bool {
		return total > goal || s.config.UnusedFor > 0 && o.used.Before(now.Add(-s.config.UnusedFor))
	}
	if len(all) == 0 || !isVictim(all[0]) {
		return 0, nil
	}
	// The listings took a while, in which other nodes may have written down more.
	if err := s.readUses(ctx, uses, from); err != nil {
		return 0, err
	}
	for _, o := range all {
		if !isVictim(o) {
			break // the others were used later
		}
		if uses[o.digest].After(o.used) {
			continue
		}
		if err := s.client.remove(ctx, blobName(o.digest)); err != nil {
			return removed, err
		}
		if o.size > MinSigned {
			s.verified.Forget(o.digest.String())
			if err := s.client.remove(ctx, verifiedKey(o.digest)); err != nil {
				return removed, err
			}
		}
		removed++
		total -= o.size
		if !store.Pause(ctx, sweepRest) {
			return removed, ctx.Err()
		}
	}
	return removed, nil
}

// listStored returns the content in the bucket and its size. Content was last used when
// it was uploaded, unless uses has a later time.
func (s *Store) listStored(ctx context.Context, uses map[digest.Digest]time.Time) (all []stored, total int64, err error) {
	err = s.client.list(ctx, "blobs/", func(name string, o object) error {
		d, ok := parseBlobName(name)
		if !ok {
			return nil // not one of ours
		}
		used := o.modified
		if later := uses[d]; later.After(used) {
			used = later
		}
		all = append(all, stored{d, o.size, used})
		total += o.size
		return nil
	})
	return all, total, err
}

// parseBlobName is the reverse of blobName.
func parseBlobName(name string) (digest.Digest, bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 {
		return "", false
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[3])
	return d, d.Validate() == nil && blobName(d) == name
}
