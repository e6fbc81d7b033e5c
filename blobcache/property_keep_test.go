package blobcache_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// owners are those on whose behalf a world's clients ask.
const owners = "abc"

func scopeOf(owner byte) string { return string(owner) + "/_/hub/image" }

// bound makes the cache of some worlds small, its ranges in all of them, and has
// owners with quotas.
func (w *world) bound() {
	w.limits = blobcache.Limits{Reserve: -1, StopAbandoned: w.chance(3)}
	if w.chance(4) {
		w.limits.MaxBlobSize = 1 + int64(w.upTo(2_000_000))
	}
	if w.chance(2) {
		w.limits.MaxSize = 1 + int64(w.upTo(3_000_000))
	}
	quotas := make(map[string]int64)
	for _, owner := range []byte(owners) {
		if w.chance(4) {
			quotas[string(owner)] = 1 + int64(w.upTo(2_000_000))
		}
	}
	w.cache = blobcache.New(w.store, w.limits, w.hooks())
	w.cache.SetSpans(1+int64(w.upTo(400_000)), 8+int64(w.upTo(100_000)), 200_000)
	w.index = index.New(w.files)
	w.quotas = blobcache.NewQuotas(w.cache, w.index, quotas)
}

// keep keeps the bounds while a world goes on, purges owners and scrubs. Then it
// checks that all comes to rest.
func (w *world) keep(live func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var keepers sync.WaitGroup
	keepers.Go(func() { w.cache.Keep(ctx) })
	keepers.Go(func() { w.quotas.Keep(ctx) })
	var others sync.WaitGroup
	if w.chance(2) {
		others.Go(func() { w.often(w.purge) })
	}
	if w.chance(2) {
		others.Go(func() { w.often(w.scrub) })
	}
	live()
	others.Wait()
	time.Sleep(time.Hour) // until all fills and what was wanted of the keepers has ended
	w.atRest()
	for _, owner := range []byte(owners) {
		w.purgeOwner(owner)
	}
	time.Sleep(time.Hour)
	if left := w.size(); left != 0 && !w.vandals {
		w.t.Errorf("%d bytes are left that nobody has", left)
	}
	w.atRest()
	cancel()
	keepers.Wait()
}

func (w *world) often(do func()) {
	for range 4 {
		time.Sleep(time.Duration(w.upTo(2000)) * time.Millisecond)
		do()
	}
}

func (w *world) purge() { w.purgeOwner(owners[w.upTo(len(owners))]) }

func (w *world) purgeOwner(owner byte) {
	if _, err := w.quotas.Purge(w.t.Context(), string(owner)); err != nil {
		w.t.Errorf("purge: %v", err)
	}
}

func (w *world) scrub() {
	if _, err := w.cache.Scrub(w.t.Context(), 0); err != nil {
		w.t.Errorf("scrub: %v", err)
	}
}

// atRest checks that nothing is reserved or in use, and that the cache knows how
// large it is and is not larger than it may be.
func (w *world) atRest() {
	stored, reserved, reading := w.cache.Counted()
	if fills := w.cache.Fills(); reserved != 0 || reading != 0 || len(fills) != 0 {
		w.t.Errorf("at rest %d bytes are reserved, %d contents read, fills: %v", reserved, reading, fills)
	}
	size := w.size()
	if size != stored {
		w.t.Errorf("%d bytes are stored, and %d counted", size, stored)
	}
	if most := w.limits.MaxSize; most > 0 && size > most {
		w.t.Errorf("%d bytes are stored, and only %d may be", size, most)
	}
}

// size is how many bytes are stored.
func (w *world) size() (size int64) {
	if err := w.files.Walk(w.t.Context(), func(e store.Entry) error {
		size += e.Size
		return nil
	}); err != nil {
		w.t.Error(err)
	}
	return size
}

// request asks for a source's content as one of its owners, of whom the index
// hears what the source has confirmed.
func (w *world) request(s *source) fill.Request {
	scope := scopeOf(owners[w.upTo(len(owners))])
	req := s.request(scope)
	req.Size = int64(len(s.content)) // damage of the store shows by the size alone
	req.Limit = w.quotas.Limit(scope)
	req.Claim = worldClaim{w, scope, s}
	req.Stored = func(size int64) { w.quotas.Added(scope, size) }
	return req
}

// worldClaim may have all that is stored, and links what has been delivered.
type worldClaim struct {
	*world
	scope  string
	source *source
}

func (c worldClaim) Standing(context.Context) fill.Standing {
	return fill.Standing{Linked: true, Size: int64(len(c.source.content)), Delivered: true}
}
func (worldClaim) Confirm(context.Context, int64) error { return nil }
func (c worldClaim) Delivered(size int64)               { c.link(c.scope, c.source, size) }

func (w *world) link(scope string, s *source, size int64) {
	if err := w.index.AddLink(context.Background(), scope, s.digest, index.Link{Size: size}); err != nil {
		w.trouble("link", fmt.Errorf("%s: %w", scope, err))
	}
	w.quotas.Used(scope, s.digest, false)
}
