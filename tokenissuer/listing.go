package tokenissuer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"
)

// detached is a context for storage on behalf of everyone who waits: the
// client that happened to come first may leave, the work goes on to its end or
// to the deadline.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
}

// Refresh lists the storage now, or joins the listing under way. It makes no
// key and deletes none. Nodes that mint do so by themselves; a node that only
// verifies learns of a removed key through this. After a failure the ring goes
// on with the keys that it knows.
func (r *KeyRing) Refresh(ctx context.Context) error {
	_, err := r.listing.do(ctx, nil, func() error { return r.list(ctx) })
	return err
}

// refreshStale lists unless a listing succeeded within the refresh interval. As
// anyone can ask for the key set, it shares the rate of the lookups.
func (r *KeyRing) refreshStale(ctx context.Context) error {
	_, err := r.listing.do(ctx, func() bool {
		age, err := r.lastListing()
		fresh := err == nil && age >= 0 && age < r.schedule.refresh
		return !fresh && r.lookups.allow(r.now())
	}, func() error { return r.list(ctx) })
	if errors.Is(err, errNotAdmitted) {
		_, err = r.lastListing()
	}
	return err
}

// find is the key for a kid that the caller did not know: another node may
// have just made it. Nil without an error means that there is none. Only so
// many lookups per second reach storage, however many forged kids arrive;
// beyond that an unknown kid stays unknown.
func (r *KeyRing) find(ctx context.Context, kid string) (*key, error) {
	if !isKid(kid) {
		return nil, nil
	}
	known := func() *key { return r.keys.Load().verifier(kid, r.now()) }
	// Who joins a listing that began before the key was made needs another.
	for range 2 {
		led, err := r.listing.do(ctx, func() bool {
			return known() == nil && r.lookups.allow(r.now())
		}, func() error { return r.list(ctx) })
		if errors.Is(err, errNotAdmitted) {
			led = true
			_, err = r.lastListing()
		}
		if k := known(); k != nil || led || err != nil {
			// A key that is known needs no listing to be trusted.
			if k != nil {
				err = nil
			}
			return k, err
		}
	}
	return nil, nil
}

// lastListing is the age of the last listing that succeeded, and the error of
// the last one.
func (r *KeyRing) lastListing() (time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now().Sub(r.listed), r.listErr
}

// list is the work of the listing flight.
func (r *KeyRing) list(ctx context.Context) error {
	began := r.now()
	ctx, cancel := detached(ctx)
	defer cancel()
	err := r.read(ctx)
	r.mu.Lock()
	r.listErr = err
	if err == nil {
		r.listed = began
	}
	r.mu.Unlock()
	if err != nil {
		r.hooks.storageError(err)
	}
	return err
}

// read makes the ring know what is in storage. A file that cannot be read now
// keeps the others from being forgotten, but not from being learnt.
func (r *KeyRing) read(ctx context.Context) error {
	names, err := r.names(ctx)
	if err != nil {
		return err
	}
	known := r.keys.Load()
	var add []*key
	var failed error
	for name := range names {
		if _, kid, _ := parseName(name); known.byKid[kid] != nil {
			continue // never overwritten, hence never read again
		}
		k, err := r.load(ctx, name)
		if err != nil {
			failed = err
		} else if k != nil {
			add = append(add, k)
		}
	}
	drop, err := r.removed(ctx, known, names)
	r.replace(add, drop)
	r.forgetBad(names)
	return cmp.Or(failed, err)
}

// removed are the known keys that are no longer in storage. Listings of some
// storages lag behind, or tear when a file vanishes under them; so a key is
// removed only if it is not there by its name either.
func (r *KeyRing) removed(ctx context.Context, known *keySet, names map[string]bool) (drop []*key, err error) {
	for _, k := range known.sorted {
		if names[k.name()] {
			continue
		}
		_, loadErr := r.storage.Load(ctx, r.path(k))
		if errors.Is(loadErr, fs.ErrNotExist) {
			drop = append(drop, k)
		} else if loadErr != nil {
			err = fmt.Errorf("looking for a signing key: %w", loadErr)
		}
	}
	return drop, err
}

// names are the key files in storage, without their path.
func (r *KeyRing) names(ctx context.Context) (map[string]bool, error) {
	paths, err := r.storage.List(ctx, r.prefix, false)
	if errors.Is(err, fs.ErrNotExist) {
		// The path may not exist yet. Or it does, and a file in it, such as
		// the temporary one of a key being stored, vanished during the
		// listing: certmagic's FileStorage reports both alike.
		paths, err = r.storage.List(ctx, r.prefix, false)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing signing keys: %w", err)
	}
	names := make(map[string]bool, len(paths))
	for _, p := range paths {
		name := path.Base(p)
		if _, _, ok := parseName(name); ok {
			names[name] = true
		}
	}
	return names, nil
}

// load reads one key. A file that is no good, or forbidden, or has just been
// deleted, is nil without an error: such a file will be the same tomorrow and
// must not keep the good ones from being used. Any other error is storage's.
func (r *KeyRing) load(ctx context.Context, name string) (*key, error) {
	content, err := r.storage.Load(ctx, r.prefix+"/"+name)
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
	if r.bad == nil {
		r.bad = make(map[string]bool)
	}
	r.bad[name] = true
	r.mu.Unlock()
	if !reported {
		r.hooks.badKey(name, err)
	}
	return nil, nil
}

// forgetBad forgets the bad files that are away or have become good.
func (r *KeyRing) forgetBad(names map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.bad {
		_, kid, _ := parseName(name)
		if !names[name] || r.keys.Load().byKid[kid] != nil {
			delete(r.bad, name)
		}
	}
}

// replace publishes a change of the known keys.
func (r *KeyRing) replace(add, drop []*key) {
	if len(add) == 0 && len(drop) == 0 {
		return
	}
	r.mu.Lock()
	r.keys.Store(r.keys.Load().with(add, drop))
	r.mu.Unlock()
	for _, k := range drop {
		k.gone.Store(true)
	}
}

func (h Hooks) badKey(name string, err error) {
	if h.BadKey != nil {
		h.BadKey(name, err)
	}
}

func (h Hooks) storageError(err error) {
	if h.StorageError != nil {
		h.StorageError(err)
	}
}

func (h Hooks) keyMade(kid string) {
	if h.KeyMade != nil {
		h.KeyMade(kid)
	}
}

func (h Hooks) keyDeleted(kid string) {
	if h.KeyDeleted != nil {
		h.KeyDeleted(kid)
	}
}
