package index

import (
	"errors"
	"time"
)

// PurgedAt returns when this process has last purged a scope, or another one, as far as this
// one knows. It is zero if that was more than seven days ago or before the process started.
func (x *Index) PurgedAt(scope string) (at time.Time) {
	if at = x.purges.latest(scope); time.Since(at) > keepPurges {
		return time.Time{}
	}
	return at
}

// NotePurge makes what was recorded for a scope void, since another process has purged it at
// a time. It is for processes that do not share the records, or learn of the purge sooner
// than by [Index.LearnPurges]. It does no I/O.
func (x *Index) NotePurge(scope string, at time.Time) {
	now := time.Now()
	if at.After(now) {
		at = now
	}
	prefix := scope + "/_"
	if now.Sub(at) > keepPurges || !at.After(x.PurgedAt(scope)) || !x.purges.note(prefix, at) {
		return
	}
	x.forgetMemory(prefix, at.Add(purgeSlack))
	if x.Purged != nil {
		x.Purged(prefix)
	}
}

// forgetMemory removes links and refs below a prefix from memory that were recorded before
// a time.
func (x *Index) forgetMemory(prefix string, before time.Time) {
	x.drops.Add(1)
	forgetBelow(x.links, below(linksFolder, prefix), func(r linkRecord) bool { return r.Added.Before(before) })
	forgetBelow(x.refs, below(refsFolder, prefix), func(r Ref) bool { return r.Checked.Before(before) })
}

// voidError returns an error if what was recorded for a scope at a time has been purged.
func (x *Index) voidError(scope string, at time.Time) error {
	if x.purges.void(scope, at) {
		return errors.New("it has been purged")
	}
	return nil
}
