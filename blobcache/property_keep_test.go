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

// owners has the name of an owner in each byte. The clients of a world send their requests
// as one of these owners.
const owners = "abc"

// scopeOf returns the scope of an owner.
func scopeOf(owner byte) string { return string(owner) + "/_/hub/image" }

// bound sets small limits of the cache at random, small ranges always, and quotas for some of
// the owners.
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

// keep runs live while the cache and the quotas keep their limits. Meanwhile it may purge
// owners and scrub. Then it checks that all activity ends, and that no content is left
// after the purge of all owners.
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
	time.Sleep(time.Hour) // until all fills and the pending work of the keepers have ended
	w.atRest()
	for _, owner := range []byte(owners) {
		w.purgeOwner(owner)
	}
	time.Sleep(time.Hour)
	if left := w.size(); left != 0 && !w.vandals {
		w.t.Errorf("after the purge of all owners: got %d bytes stored, want 0", left)
	}
	w.atRest()
	cancel()
	keepers.Wait()
}

// often calls do four times, each time after a random pause.
func (w *world) often(do func()) {
	for range 4 {
		time.Sleep(time.Duration(w.upTo(2000)) * time.Millisecond)
		do()
	}
}

// purge purges a random owner.
func (w *world) purge() { w.purgeOwner(owners[w.upTo(len(owners))]) }

func (w *world) purgeOwner(owner byte) {
	if _, err := w.quotas.Purge(w.t.Context(), string(owner)); err != nil {
		w.t.Errorf("purge: got the error %v, want none", err)
	}
}

func (w *world) scrub() {
	if _, err := w.cache.Scrub(w.t.Context(), 0, nil); err != nil {
		w.t.Errorf("scrub: got the error %v, want none", err)
	}
}

// atRest checks that nothing is reserved or in use, and that the cache counts the stored bytes
// right and is within its size limit.
func (w *world) atRest() {
	stored, reserved, reading := w.cache.Counted()
	if fills := w.cache.Fills(); reserved != 0 || reading != 0 || len(fills) != 0 {
		w.t.Errorf("at rest: got %d bytes reserved, %d contents being read and the fills %+v, want 0, 0 and none", reserved, reading, fills)
	}
	size := w.size()
	if size != stored {
		w.t.Errorf("at rest: got %d bytes counted as stored, want %d", stored, size)
	}
	if most := w.limits.MaxSize; most > 0 && size > most {
		w.t.Errorf("at rest: got %d bytes stored, want at most %d", size, most)
	}
}

// size returns the number of stored bytes.
func (w *world) size() (size int64) {
	if err := w.files.Walk(w.t.Context(), func(e store.Entry) error {
		size += e.Size
		return nil
	}); err != nil {
		w.t.Error(err)
	}
	return size
}

// faulty returns a replica of s that fails and lies as the source does.
func (w *world) faulty(s *source) *replica {
	r := w.replica(s)
	r.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
		return w.answer(ctx, r.source, offset, length)
	}
	return r
}

// request returns a request of a random owner for a source's content. The delivered content
// is linked to the owner's scope in the index.
func (w *world) request(s *source) fill.Request {
	scope := scopeOf(owners[w.upTo(len(owners))])
	req := s.request(scope)
	req.Size = int64(len(s.content)) // some damage of the store can be detected by the size only
	req.Limit = w.quotas.Limit(scope)
	mine := worldClaim{w, scope, s, fill.Standing{Linked: true, Size: req.Size, Delivered: true}}
	switch w.upTo(4) {
	case 0:
		mine.standing.Linked = false
	case 1:
		mine.standing, req.Size = fill.Standing{Size: -1}, -1
	}
	req.Claim, req.Verifies = mine, w.chance(3)
	for _, r := range w.replicas[s] {
		req.Replicas = append(req.Replicas, r)
	}
	for _, p := range w.peers[s] {
		req.Peers = append(req.Peers, p)
	}
	if len(req.Peers) > 0 && w.chance(3) {
		req.Circular = func(peer fill.Replica, _ bool) bool { return peer == req.Peers[0] }
	}
	req.Stored = func(size int64) { w.quotas.Added(scope, size) }
	return req
}

// worldClaim is the claim of a scope that has access to all content, whatever is known of
// that. It links content that has been delivered.
type worldClaim struct {
	*world
	scope    string
	source   *source
	standing fill.Standing
}

func (c worldClaim) Standing(context.Context) fill.Standing { return c.standing }
func (worldClaim) Confirm(context.Context, int64) error     { return nil }
func (c worldClaim) Delivered(size int64)                   { c.link(c.scope, c.source, size) }

// link adds a link from a scope to a source's content.
func (w *world) link(scope string, s *source, size int64) {
	if err := w.index.AddLink(context.Background(), scope, s.digest, index.Link{Size: size}); err != nil {
		w.trouble("link", fmt.Errorf("%s: %w", scope, err))
	}
	w.quotas.Used(scope, s.digest, false)
}
