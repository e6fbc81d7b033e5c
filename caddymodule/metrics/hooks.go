package metrics

import (
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// The values of the labels of fills_total and evicted_bytes_total.
var (
	fillResults  = []string{"ok", "abandoned", "mismatch", "failed"}
	evictReasons = []blobcache.Reason{blobcache.ReasonSize, blobcache.ReasonUnused, blobcache.ReasonLost, blobcache.ReasonQuota, blobcache.ReasonPurge}
)

// CountUpstream adds counting to the hooks of an upstream.
func CountUpstream(name string, hooks *upstream.Hooks) {
	hooks.Answered = func(op upstream.Operation, status int, took time.Duration) {
		process.upstreamRequests.with("", name, string(op), codeOf(status)).Add(1)
		process.upstreamSeconds.with("", name, string(op)).Observe(took.Seconds())
	}
	hooks.Received = func(n int) { process.upstreamBytes.with("", name).Add(uint64(n)) }
}

// CountCache returns hooks of a cache that count as well.
func CountCache(hooks blobcache.Hooks) blobcache.Hooks {
	counted := hooks
	counted.FillDone = func(d digest.Digest, size int64, took time.Duration, err error) {
		process.fills.with("", fillResult(err)).Add(1)
		hooks.FillDone(d, size, took, err)
	}
	counted.Resumed = func(d digest.Digest, offset int64, err error) {
		process.resumes.with("").Add(1)
		hooks.Resumed(d, offset, err)
	}
	counted.Evicted = func(e store.Entry, why blobcache.Reason, left int64) {
		process.evicted.with("", string(why)).Add(uint64(max(e.Size, 0)))
		hooks.Evicted(e, why, left)
	}
	counted.Healed = func(d digest.Digest, why error) {
		process.damaged.with("").Add(1)
		hooks.Healed(d, why)
	}
	return counted
}

func fillResult(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, fill.ErrAbandoned):
		return "abandoned"
	case errors.Is(err, fill.ErrDigestMismatch), errors.Is(err, fill.ErrSizeMismatch):
		return "mismatch"
	}
	return "failed"
}

// Totals are the requests since the process has started, of all sites.
type Totals struct {
	Since    time.Time
	Requests map[record.Kind]map[record.Result]uint64
}

// Total returns the totals of this process.
func Total() Totals {
	t := Totals{Since: process.since, Requests: make(map[record.Kind]map[record.Result]uint64)}
	for kind := range process.totals {
		by := make(map[record.Result]uint64)
		for result := range process.totals[kind] {
			if n := process.totals[kind][result].Load(); n > 0 {
				by[record.Result(result)] = n
			}
		}
		t.Requests[record.Kind(kind)] = by
	}
	return t
}

// Hits returns how many manifests and blobs were served, and how many of them without
// fetching their content for this request.
func (t Totals) Hits() (hits, served uint64) {
	for _, kind := range []record.Kind{record.Manifest, record.Blob} {
		by := t.Requests[kind]
		hits += by[record.Hit] + by[record.Joined] + by[record.Revalidated] + by[record.Stale]
		served += by[record.Miss]
	}
	return hits, served + hits
}
