package blobcache

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// sum stands for a digest in the memory of a measurement: its first 32 bytes.
type sum [32]byte

func sumOf(d digest.Digest) (s sum) {
	_, _ = hex.Decode(s[:], []byte(d.Encoded()[:2*len(s)])) // it has been validated
	return s
}

// sha256 returns the digest, if it is a SHA-256 digest. For other digests it
// returns one that no content has.
func (s sum) sha256() digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(s[:]))
}

// holding is content as an owner has it.
type holding struct {
	used int64 // nanoseconds since 1970, by any of the owner's links
	size int64 // in bytes, or absent
}

const (
	absent     = -1 // not stored
	unmeasured = -2 // not known yet
	unreadable = -3 // the store cannot tell whether it is stored
)

// holdings are an owner's contents. Each takes some 100 bytes of memory while
// the owners below one first component are measured.
type holdings map[sum]holding

// victims are the contents whose links an owner will lose.
type victims map[sum]holding

// measurement is a walk over all links that adds up what owners have.
type measurement struct {
	quotas  *Quotas
	ctx     context.Context
	began   time.Time
	trusted bool   // the clock is
	top     string // first component of the owners being measured
	owners  map[string]holdings
	totals  map[string]Total
	over    map[string]victims
	idle    []index.Linked   // old links whose content is gone
	pending bool             // content is about to be stored for an owner with a quota
	coming  map[string]int64 // bytes that fills had reserved at the end, by owner
}

// measure measures all owners and chooses what those over their quota will
// lose.
func (q *Quotas) measure(ctx context.Context) (*measurement, error) {
	q.mu.Lock()
	added, pending := maps.Clone(q.added), len(q.coming) > 0
	q.mu.Unlock()
	clock := q.cache.evictor.clock
	m := &measurement{
		quotas: q, ctx: ctx, began: clock.now(), trusted: clock.trusted(),
		owners: make(map[string]holdings), totals: make(map[string]Total), over: make(map[string]victims),
		coming: make(map[string]int64), pending: pending,
	}
	if err := q.index.EachLink(ctx, m.visit); err != nil {
		return nil, err
	}
	m.finish()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.totals = m.totals
	for owner := range m.over {
		if m.coming[owner] > 0 {
			q.making[owner] = true
		}
	}
	for owner, size := range added {
		q.added[owner] -= size // what came during the walk may have been missed
	}
	return m, nil
}

func (m *measurement) visit(l index.Linked) error {
	scope, d := l.Scope, l.Digest
	if top, _, _ := strings.Cut(scope, "/"); top != m.top {
		m.finish()
		m.top = top
	}
	if m.trusted && time.Until(l.Used) > futureSlack {
		l.Used = m.began // the clock was wrong then
		_ = m.quotas.index.MarkLink(m.ctx, scope, d, l.Used)
	}
	key, size := sumOf(d), int64(unmeasured)
	index.Owners(scope, func(owner string) bool {
		held, known := m.owners[owner][key]
		if known {
			size = held.size
		}
		if size == unmeasured {
			size = m.size(d)
		}
		if size < 0 && m.quotas.limits[owner] > 0 && m.began.Sub(l.Used) < pullSpan {
			m.pending = true
		}
		if m.owners[owner] == nil {
			m.owners[owner] = make(holdings)
		}
		m.owners[owner][key] = holding{used: max(held.used, l.Used.UnixNano()), size: size}
		return true
	})
	if size == absent && m.trusted && m.began.Sub(l.Used) > idleAfter && len(m.idle) < idleLimit {
		m.idle = append(m.idle, l)
	}
	return nil
}

// size returns the size of stored content. The size that a link records would also
// count content that has been evicted, that was passed on without being stored, or
// that is being stored and has its room reserved.
func (m *measurement) size(d digest.Digest) int64 {
	e, err := m.quotas.cache.blobs.Stat(m.ctx, d)
	switch {
	case err == nil:
		return e.Size
	case errors.Is(err, fs.ErrNotExist):
		return absent
	}
	return unreadable
}

// finish adds up the owners below one first component. What fills have reserved is looked
// up last: what a fill has stored during the walk must not count twice, since links would
// be removed for it. If it does not count at all, [Quotas.Added] requests another round.
func (m *measurement) finish() {
	m.quotas.mu.Lock()
	for owner := range m.owners {
		m.coming[owner] = m.quotas.coming[owner]
	}
	m.quotas.mu.Unlock()
	for owner, held := range m.owners {
		total := Total{Measured: m.began}
		for _, h := range held {
			if h.size >= 0 {
				total.Bytes += h.size
				total.Blobs++
			}
		}
		m.totals[owner] = total
		if quota, all := m.quotas.limits[owner], total.Bytes+m.coming[owner]; quota > 0 && all > quota {
			m.over[owner] = m.choose(held, all-quota/10*9)
		}
	}
	clear(m.owners)
}

// choose returns the least recently used contents, of at least excess bytes. An
// image is chosen with those of its children that no later use protects.
func (m *measurement) choose(held holdings, excess int64) victims {
	type candidate struct {
		sum
		holding
	}
	var all []candidate
	for key, h := range held {
		if h.size >= 0 {
			all = append(all, candidate{key, h})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(a.used, b.used) })
	chosen := make(victims)
	take := func(key sum, h holding) {
		if _, ok := chosen[key]; !ok {
			chosen[key] = h
			excess -= h.size
		}
	}
	for _, c := range all {
		if excess <= 0 || m.ctx.Err() != nil {
			break
		}
		if _, ok := chosen[c.sum]; ok {
			continue
		}
		take(c.sum, c.holding)
		if c.size > treeContentSize {
			continue
		}
		tree := m.quotas.cache.evictor.tree(m.ctx, c.sha256())
		last := latest(store.Entry{Used: time.Unix(0, c.used)}, tree).UnixNano()
		for _, n := range tree {
			if key := sumOf(n.digest); held[key].used <= last && held[key].size > 0 {
				take(key, held[key])
			}
		}
	}
	return chosen
}
