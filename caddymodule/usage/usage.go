// Package usage counts, for the pages of groups and sites, the bytes that each group
// has been sent and has caused to be fetched, by day, and when tags were last pulled.
//
// A [Recorder] counts in memory, so a pull writes nothing to disk. [Recorder.Keep]
// writes once a minute what has been counted since, to one small record for each
// group and day, and keeps the records for 90 days. A crash loses the last minute, and
// what is sent after Keep has ended is lost: Caddy ends it after its servers, so these
// are only requests that outlive the grace period, or the storage of their site.
// Processes that share the records add to them; if two write the same record at the
// same moment, the last writer wins, and the bytes of a minute are lost.
package usage

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
)

const (
	// All is the group of the records of all groups together.
	All = "_all"

	// Other is the group to which the traffic of further groups is added once maxOthers
	// groups that the configuration does not declare have records.
	Other = "_other"

	// maxOthers is the number of groups that the configuration does not declare
	// and that have records.
	maxOthers = 1000

	// maxPulls is the number of tags whose pulls are remembered until they are
	// written down. Later pulls of other tags are not recorded.
	maxPulls = 16 << 10

	// interval is the time between two writes of the same record.
	interval = time.Minute

	// keptDays is the number of days for which records are kept.
	keptDays = 90

	// finalLimit is how long the last write may take.
	finalLimit = 5 * time.Second
)

// Traffic is a number of bytes in each direction.
type Traffic struct {
	Served  int64 `json:"served"`  // sent to clients
	Fetched int64 `json:"fetched"` // received from upstreams
}

func (t *Traffic) add(other Traffic) {
	t.Served += other.Served
	t.Fetched += other.Fetched
}

// Recorder counts bytes and pulls. It is safe for concurrent use.
type Recorder struct {
	records store.Records
	index   *index.Index
	failed  func(error)
	now     func() time.Time

	mu       sync.Mutex
	declared map[string]int   // configurations that declare a group
	counts   map[day]*Traffic // since the last write
	others   int              // of them, those of groups that are not declared
	pulls    map[tag]time.Time

	// known has the groups with records that are not declared. Only Keep uses it.
	known map[string]bool
	swept int // the last day on which old records were looked for
}

// day is a day of a group.
type day struct {
	group  string
	number int // days since 1970, UTC
}

// tag is a tag in a scope of the index.
type tag struct{ scope, name string }

// New returns a recorder that writes to records, and the times of pulls to the index.
// The function failed is called with errors of the storage, which lose nothing as
// long as a later write succeeds.
func New(records store.Records, x *index.Index, failed func(error)) *Recorder {
	return &Recorder{
		records: records, index: x, failed: failed, now: time.Now,
		declared: make(map[string]int), counts: make(map[day]*Traffic), pulls: make(map[tag]time.Time),
	}
}

// Declare makes the recorder keep records for a group that a configuration declares,
// however many other groups there are, until the returned function is called.
func (r *Recorder) Declare(group string) (undeclare func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.declared[group]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.declared[group]--; r.declared[group] == 0 {
			delete(r.declared, group)
		}
	}
}

// Count adds traffic to the records of a group and of the groups above it. It does
// not block.
func (r *Recorder) Count(group string, traffic Traffic) {
	today := dayOf(r.now())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.countAll(group, today, traffic)
}

// countAll adds traffic of a day to the records of a group and of those above it. The
// caller holds mu.
func (r *Recorder) countAll(group string, today int, traffic Traffic) {
	if traffic == (Traffic{}) {
		return
	}
	r.count(day{All, today}, traffic)
	for path := group; path != ""; path = path[:max(strings.LastIndexByte(path, '/'), 0)] {
		r.count(day{path, today}, traffic)
	}
}

// Fetched adds bytes that have come from an upstream for a scope of the index. It
// does not block.
func (r *Recorder) Fetched(scope string, n int) {
	group, _, _ := strings.Cut(scope, "/_/")
	r.Count(group, Traffic{Fetched: int64(n)})
}

// count adds traffic to a day. The caller holds mu.
func (r *Recorder) count(key day, traffic Traffic) {
	declared := r.isDeclared(key.group)
	if r.counts[key] == nil && !declared && r.others >= maxOthers {
		key, declared = day{Other, key.number}, true
	}
	c := r.counts[key]
	if c == nil {
		c = new(Traffic)
		r.counts[key] = c
		if !declared {
			r.others++
		}
	}
	c.add(traffic)
}

// isDeclared reports whether a group always has records. The caller holds mu.
func (r *Recorder) isDeclared(group string) bool {
	return group == All || group == Other || r.declared[group] > 0
}

// LastPull returns the time of the last pull of a tag that has not been written to
// the index yet, or the zero time.
func (r *Recorder) LastPull(scope, name string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pulls[tag{scope, name}]
}

// Day is the traffic of a day.
type Day struct {
	Date string `json:"date"` // as in 2026-11-27, UTC
	Traffic
}

// Days returns the traffic of a group, and of the groups below it, in the last n days,
// with today as the last one. Days without a record are zero.
func (r *Recorder) Days(ctx context.Context, group string, n int) []Day {
	today := dayOf(r.now())
	days := make([]Day, n)
	for i := range days {
		key := day{group, today - n + 1 + i}
		days[i].Date = key.date()
		days[i].Traffic, _ = r.load(ctx, key) // without a record, it is zero
		r.mu.Lock()
		if c := r.counts[key]; c != nil {
			days[i].add(*c)
		}
		r.mu.Unlock()
	}
	return days
}

// Record counts the content that a request was sent, and the tag that it has pulled. It
// is a [record.Consumer].
func (r *Recorder) Record(request *record.Request) {
	if request.Kind.ForPeer() {
		return
	}
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if request.Source != record.Nowhere {
		r.countAll(request.Group, dayOf(now), Traffic{Served: request.Bytes})
	}
	if request.Kind == record.Manifest && request.Tag != "" && record.Hit <= request.Result && request.Result <= record.Stale {
		key := tag{request.Scope, request.Tag}
		if _, known := r.pulls[key]; known || len(r.pulls) < maxPulls {
			r.pulls[key] = now
		}
	}
}
