package bucket

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
)

const (
	// idleFor is how long a link or a delivery is kept whose content has gone.
	idleFor = 7 * day

	// uploadLimit is how long an upload in parts may take.
	uploadLimit = day

	// maxSkipped is the number of objects that a sweep skips because they cannot be
	// removed or read. One more ends it.
	maxSkipped = 100

	// unreadSweeps is the number of sweeps in a row that end because a report cannot be
	// read, before a sweep skips it, however long ago the last successful sweep was.
	unreadSweeps = 3

	// maxAborted is the number of uploads that a sweep removes. The next one removes more.
	maxAborted = 10_000
)

// LimitOwners keeps the owners of links within limits in bytes, in the bucket, until
// release is called. Of several limits for an owner, the lowest holds.
func (s *Store) LimitOwners(limits map[string]int64) (release func()) {
	s.limits.Lock()
	defer s.limits.Unlock()
	if s.limits.all == nil {
		s.limits.all = make(map[*byte]map[string]int64)
	}
	id := new(byte)
	s.limits.all[id] = limits
	return func() {
		s.limits.Lock()
		defer s.limits.Unlock()
		delete(s.limits.all, id)
	}
}

// currentQuotas returns the limits that hold.
func (s *Store) currentQuotas() quotas {
	s.limits.Lock()
	defer s.limits.Unlock()
	q := make(quotas)
	for _, limits := range s.limits.all {
		q.lowest(limits)
	}
	return q
}

// pace waits until the sweep may send another request.
func (w *sweeping) pace(ctx context.Context) error { return w.limit.Wait(ctx) }

func (w *sweeping) remove(ctx context.Context, name string) error {
	if err := w.pace(ctx); err != nil {
		return err
	}
	return w.skip(w.client.remove(ctx, name))
}

// skip returns nil in place of an error that may concern one object only, so that the sweep
// goes on with others. It does so for the first maxSkipped of such errors.
func (w *sweeping) skip(err error) error {
	if err == nil || !isDenied(err) && strikesFor(err) != 1 || w.skipped == maxSkipped {
		return err
	}
	if w.skipped++; w.skipped == 1 {
		w.config.StorageError("sweep an object of the bucket", err)
	}
	return nil
}

func (w *sweeping) statPaced(ctx context.Context, name string) (object, error) {
	if err := w.pace(ctx); err != nil {
		return object{}, err
	}
	return w.client.stat(ctx, name)
}

// list is [client.list] at the pace of the sweep.
func (w *sweeping) list(ctx context.Context, prefix string, visit func(name string, o object) error) error {
	if err := w.pace(ctx); err != nil {
		return err
	}
	n := 0
	return w.client.list(ctx, prefix, func(name string, o object) error {
		if n++; n%listPage == 0 {
			if err := w.pace(ctx); err != nil {
				return err
			}
		}
		return visit(name, o)
	})
}

// sweepRecords trims the owners over their quotas, and removes the links and deliveries
// of content that has gone.
func (w *sweeping) sweepRecords(ctx context.Context) error {
	for owner, quota := range w.quotas {
		if err := w.trim(ctx, owner, quota); err != nil {
			return err
		}
	}
	for _, folder := range []string{"links/", "deliveries/"} {
		err := w.list(ctx, folder, func(name string, o object) error {
			d, ok := index.ContentOf(name)
			if !ok {
				return nil // not one of ours
			}
			i, stored := w.stored.find(keyOf(d))
			if stored && folder == "links/" {
				w.lost.clear(i) // another owner has it
			}
			if stored || w.began.Sub(o.modified) < idleFor {
				return nil
			}
			// It may have been uploaded since the listing.
			if _, err := w.statPaced(ctx, blobName(d)); !errors.Is(err, fs.ErrNotExist) {
				return w.skip(err)
			}
			w.result.Records++
			return w.remove(ctx, name)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sweepRefs removes the refs that no node has confirmed for UnusedFor, or for idleFor if that
// is longer, and whose manifests have gone. A node that still uses one has its own copy, and
// writes it again when the source confirms it.
func (w *sweeping) sweepRefs(ctx context.Context) error {
	idle := max(w.config.UnusedFor, idleFor)
	return w.list(ctx, "refs/", func(name string, o object) error {
		if w.began.Sub(o.modified) < idle {
			return nil
		}
		if unused, err := w.isUnusedRef(ctx, name, o); !unused {
			return w.skip(err)
		}
		w.result.Records++
		return w.skip(w.client.remove(ctx, name))
	})
}

// isUnusedRef reports whether a ref has not changed since it was listed, and its manifest
// is not in the bucket, or no node can read it.
func (w *sweeping) isUnusedRef(ctx context.Context, name string, listed object) (bool, error) {
	if err := w.pace(ctx); err != nil {
		return false, err
	}
	body, now, err := w.client.get(ctx, name, 0, -1)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	sealed, err := readRecord(body)
	if now.modified.After(listed.modified) {
		return false, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // the object is too large for a record
	}
	if err != nil {
		return false, err
	}
	value, _, err := w.open(ctx, name, sealed)
	if err != nil {
		return errors.Is(err, errForged), nil
	}
	d, ok := index.RefContent(value)
	if !ok {
		return true, nil
	}
	if _, stored := w.stored.find(keyOf(d)); stored {
		return false, nil
	}
	if _, err = w.statPaced(ctx, blobName(d)); errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// trim removes the links of an owner to the least recently used content until nine
// tenths of the quota are left. Content counts once, however many scopes have it.
func (w *sweeping) trim(ctx context.Context, owner string, quota int64) error {
	prefix := "links/" + owner + "/"
	seen, by, total := newBits(len(w.stored)), make(ages), int64(0)
	err := w.list(ctx, prefix, func(name string, _ object) error {
		if i, ok := w.positionOf(name); ok && !seen.has(i) {
			seen.set(i)
			total += w.stored[i].size
			by[w.stored[i].hour()] += w.stored[i].size
		}
		return nil
	})
	if err != nil || total <= quota {
		return err
	}
	old := by.oldest(total-quota/10*9, w.young)
	chosen := newBits(len(w.stored))
	return w.list(ctx, prefix, func(name string, o object) error {
		i, ok := w.positionOf(name)
		if ok && seen.has(i) { // for the first time
			seen.clear(i)
			if old.takes(w.stored[i]) {
				chosen.set(i)
			}
		}
		if !ok || !chosen.has(i) || hourOf(o.modified) >= w.young {
			return nil
		}
		w.lost.set(i)
		w.result.Records++
		return w.remove(ctx, name)
	})
}

// positionOf returns the position in stored of the content of a link.
func (w *sweeping) positionOf(name string) (i int, ok bool) {
	d, ok := index.ContentOf(name)
	if !ok {
		return 0, false
	}
	return w.stored.find(keyOf(d))
}

// sweepUploads removes the parts of uploads that nobody completes any more.
func (w *sweeping) sweepUploads(ctx context.Context) error {
	type upload struct{ name, id string }
	var old []upload
	n := 0
	err := w.client.listUploads(ctx, func(name, id string, began time.Time) error {
		if w.began.Sub(began) >= uploadLimit && len(old) < maxAborted {
			old = append(old, upload{name, id})
		}
		if n++; n%listPage == 0 {
			return w.pace(ctx)
		}
		return nil
	})
	// Object stores may not go on with a listing after an upload that is gone.
	for _, u := range old {
		if err := w.pace(ctx); err != nil {
			return err
		}
		err := w.client.abort(ctx, u.name, u.id)
		if err == nil {
			w.result.Uploads++
		} else if err = w.skip(err); err != nil {
			return err
		}
	}
	return err
}
