package tokenissuer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/flight"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record"
)

// find returns the key with the given kid, which another node may have created
// since the last listing. It returns nil if there is none. Listings are limited
// however many forged tokens arrive: an unknown key beyond the limit is treated
// as one that does not exist.
func (r *keyRing) find(ctx context.Context, kid string) (*key, error) {
	if !isKid(kid) {
		return nil, nil
	}
	asked := r.now()
	// A listing that was under way may have missed the key, so list once more.
	for range 2 {
		started, err := r.lookUp(ctx)
		if k := r.keys.Load().verifier(kid, r.now()); k != nil {
			return k, nil
		}
		if err != nil || !started.Before(asked) {
			return nil, err
		}
	}
	return nil, nil
}

// lookUp is refresh for callers that anyone can cause. Beyond the limit it does
// not list the storage, and returns the current time and the error of the last
// listing.
func (r *keyRing) lookUp(ctx context.Context) (started time.Time, err error) {
	return flight.Do(ctx, &r.calls, callLookUp, func(ctx context.Context) (time.Time, error) {
		if now := r.now(); !r.lookups.AllowN(now, 1) {
			_, err := r.lastListing()
			return now, err
		}
		return r.refresh(ctx)
	})
}

// refresh lists the storage, or waits for the listing under way, and returns
// when it was started. If it fails, the ring keeps the keys that it knows.
func (r *keyRing) refresh(ctx context.Context) (started time.Time, err error) {
	return flight.Do(ctx, &r.calls, callList, func(ctx context.Context) (time.Time, error) {
		started := r.now()
		ctx, cancel := record.Detach(ctx)
		defer cancel()
		err := r.list(ctx)
		r.mu.Lock()
		r.listErr = err
		if err == nil {
			r.listed = started
		}
		r.mu.Unlock()
		if err != nil {
			r.hooks.StorageError(err)
		}
		return started, err
	})
}

// lastListing returns the age of the last successful listing, and the error of
// the last listing.
func (r *keyRing) lastListing() (age time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now().Sub(r.listed), r.listErr
}

// list adds the keys that are new in the storage and removes those that have
// been deleted. If a file cannot be read now, the other files are still added.
func (r *keyRing) list(ctx context.Context) error {
	names, err := r.names(ctx)
	if err != nil {
		return err
	}
	known := r.keys.Load()
	var add []*key
	var loadErr error
	for name := range names {
		if _, kid, _ := parseName(name); known.byKid[kid] != nil {
			continue // files are never overwritten
		}
		k, err := r.load(ctx, name)
		if err != nil {
			loadErr = err
		} else if k != nil {
			add = append(add, k)
		}
	}
	remove, err := r.deleted(ctx, known, names)
	r.change(add, remove)
	r.forgetBad(names)
	return cmp.Or(loadErr, err)
}

// deleted returns the known keys that are no longer in the storage. Listings of
// some storages are delayed, or incomplete if a file is deleted meanwhile, so a
// key counts as deleted only if it cannot be loaded either.
func (r *keyRing) deleted(ctx context.Context, known *keySet, names map[string]bool) (deleted []*key, err error) {
	for _, k := range known.sorted {
		if names[k.name()] {
			continue
		}
		_, loadErr := r.folder.Load(ctx, k.name())
		if errors.Is(loadErr, fs.ErrNotExist) {
			deleted = append(deleted, k)
		} else if loadErr != nil {
			err = fmt.Errorf("looking for a signing key: %w", loadErr)
		}
	}
	return deleted, err
}

// names returns the names of the key files.
func (r *keyRing) names(ctx context.Context) (map[string]bool, error) {
	names, err := r.folder.Names(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing signing keys: %w", err)
	}
	for name := range names {
		if _, _, ok := parseName(name); !ok {
			delete(names, name)
		}
	}
	return names, nil
}

// load reads a key. It returns nil if the file is damaged, may not be read or
// has just been deleted: such a file will not change and must not prevent the
// others from being used. An error is a failure of the storage.
func (r *keyRing) load(ctx context.Context, name string) (*key, error) {
	content, err := r.folder.Load(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("loading a signing key: %w", err)
	}
	if err == nil {
		var k *key
		if k, err = decodeKey(name, content); err == nil {
			return k, nil
		}
	}
	r.mu.Lock()
	reported := r.bad[name]
	r.bad[name] = true
	r.mu.Unlock()
	if !reported {
		r.hooks.BadKey(name, err)
	}
	return nil, nil
}

// forgetBad forgets the bad files that have been deleted or repaired.
func (r *keyRing) forgetBad(names map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.bad {
		_, kid, _ := parseName(name)
		if !names[name] || r.keys.Load().byKid[kid] != nil {
			delete(r.bad, name)
		}
	}
}
