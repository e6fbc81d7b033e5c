package index

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// purgesFolder has a record for each prefix that was purged, if other processes
	// share the records. purgesUntil is the record, which is not shared, of when this
	// process has last learned what others have purged, to an hour.
	purgesFolder = "purges"
	purgesUntil  = "learnt/purges"
	untilStride  = time.Hour

	// purgeInterval is how often a process looks for purges of others.
	purgeInterval = 10 * time.Second

	// keepPurges is how long a purge is known. A process that was away for longer forgets
	// all older records.
	keepPurges = 7 * 24 * time.Hour

	// purgeSlack is the tolerated difference between the clocks of two processes: what was
	// recorded up to purgeSlack after a purge is void too, which costs a question to the
	// source.
	purgeSlack = 5 * time.Second

	// cleanAfter is how long after a purge a process looks for shared records that others
	// have written before they knew of it.
	cleanAfter = time.Minute

	// maxPurges bounds the purges in memory, some 1 MiB. maxListed bounds the shared records
	// of purges that a process lists; it reads the latest maxPurges of them. If there are
	// more, everything that was recorded before the latest purge that is left out counts as
	// purged.
	maxPurges = 4 << 10
	maxListed = 4 * maxPurges

	// purgeTries is the number of attempts to read the record of a purge. purgeReads is
	// the number of records of purges that a call of LearnPurges reads, the latest first,
	// and of links and refs that it reads to find those that a purge concerns.
	purgeTries = 3
	purgeReads = 500

	// unseenSlack is the tolerated difference between the clock of the shared storage and
	// that of a process that has purged. It is used only for records that are not read.
	unseenSlack = time.Minute
)

// purge is the record of a purge of the links and refs below a prefix.
type purge struct {
	Prefix string    `json:"prefix"` // as for Index.Purge
	At     time.Time `json:"at"`

	clean   bool   // all shared records have been examined since
	cleaned string // the last key that has been examined, unless clean is set
}

func purgeKey(prefix string) string {
	sum := sha256.Sum256([]byte(prefix))
	return purgesFolder + "/" + hex.EncodeToString(sum[:])
}

// isPurgeKey reports whether a key has the form that purgeKey returns.
func isPurgeKey(key string) bool {
	sum, err := hex.DecodeString(strings.TrimPrefix(key, purgesFolder+"/"))
	return err == nil && len(sum) == sha256.Size && purgesFolder+"/"+hex.EncodeToString(sum) == key
}

// moment is a time that is read and set concurrently. It is zero until it is set.
type moment struct{ atomic.Pointer[time.Time] }

func (m *moment) load() (at time.Time) {
	if known := m.Load(); known != nil {
		at = *known
	}
	return at
}

// purges are the purges of the last days.
type purges struct {
	last *lru.Cache[string, purge] // by prefix
	turn chan struct{}             // of KeepPurges

	// Everything that was recorded before these times may have been purged: the time of
	// the latest purge that was dropped from last, and that of the latest shared record
	// that was not read.
	dropped, unseen moment

	mu    sync.Mutex           // of what follows
	seen  map[string]seenPurge // by key: what the shared records have
	until time.Time            // when they were listed
}

// seenPurge is a version of the record of a purge.
type seenPurge struct {
	modified time.Time
	tries    int // to read it, that have failed
}

// drop is called with a purge that is removed from last, for lack of room or by its age.
func (p *purges) drop(_ string, dropped purge) {
	if time.Since(dropped.At) >= keepPurges {
		return
	}
	for {
		known := p.dropped.Load()
		if known != nil && !dropped.At.After(*known) || p.dropped.CompareAndSwap(known, &dropped.At) {
			return
		}
	}
}

// note adds a purge. It reports whether it is later than what was known.
func (p *purges) note(prefix string, at time.Time) bool {
	if known, ok := p.last.Peek(prefix); ok && !at.After(known.At) {
		return false
	}
	p.last.Add(prefix, purge{Prefix: prefix, At: at})
	return true
}

// latest returns when a scope was purged last, or the zero time.
func (p *purges) latest(scope string) (at time.Time) {
	if p.last.Len() == 0 {
		return at
	}
	look := func(prefix string) bool {
		if known, ok := p.last.Peek(prefix); ok && known.At.After(at) {
			at = known.At
		}
		return true
	}
	Owners(scope, look)
	look(scope + "/_")
	return at
}

// void reports whether what was recorded for a scope at a time has been purged since.
func (p *purges) void(scope string, at time.Time) bool {
	purged := p.latest(scope)
	for _, all := range []time.Time{p.dropped.load(), p.unseen.load()} {
		if all.After(purged) && time.Since(all) < keepPurges {
			purged = all
		}
	}
	return !purged.IsZero() && at.Before(purged.Add(purgeSlack))
}

// announce notes that what is below a prefix is void, and tells the processes that share
// the records.
func (x *Index) announce(ctx context.Context, prefix string) error {
	now := time.Now()
	x.purges.note(prefix, now)
	if x.shared == nil {
		return nil
	}
	return save(ctx, x.records, purgeKey(prefix), purge{Prefix: prefix, At: now})
}
