package admin

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
)

// maxMissing is how many entries a [MissingLog] has. Each takes about 500 bytes.
const maxMissing = 10_000

// Missing describes content that clients have requested and that was refused, because it
// is not cached and its upstream is offline.
type Missing struct {
	Group      string `json:"group"`
	Upstream   string `json:"upstream"`
	Repository string `json:"repository"`

	// Kind is manifest, blob, tags or referrers.
	Kind string `json:"kind"`

	// Tag is that of a manifest that was requested by its tag. Otherwise Digest is
	// that of the manifest, of the blob, or of the subject of the referrers.
	Tag    string        `json:"tag,omitempty"`
	Digest digest.Digest `json:"digest,omitempty"`

	Requests int64     `json:"requests"` // number of requests
	Last     time.Time `json:"last"`     // when the last one ended
}

// MissingList is the response to a GET of /dependency_proxy/cache/missing.
type MissingList struct {
	Missing []Missing `json:"missing"` // the most requested first
}

// MissingLog remembers what was missing last, at most 10000 entries. Only requests of
// clients that may pull from the group reach it. Its zero value is ready for use.
type MissingLog struct {
	mu      sync.Mutex
	entries *simplelru.LRU[Missing, *Missing] // by what was requested, without Requests and Last
}

// Record implements [record.Consumer]. It ignores requests that were answered, or failed
// for another reason.
func (l *MissingLog) Record(r *record.Request) {
	if r.Result != record.Offline || r.Kind.ForPeer() {
		return
	}
	key := Missing{Group: r.Group, Upstream: r.Upstream, Repository: r.Repository, Kind: r.Kind.String(), Tag: r.Tag, Digest: r.Digest}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries == nil {
		entries, err := simplelru.NewLRU[Missing, *Missing](maxMissing, nil)
		if err != nil {
			panic(err) // the size is a positive constant
		}
		l.entries = entries
	}
	entry, known := l.entries.Get(key)
	if !known {
		entry = new(key)
		l.entries.Add(key, entry)
	}
	entry.Requests++
	entry.Last = r.Start.Add(r.Duration).UTC()
}

// List returns the entries.
func (l *MissingLog) List() []Missing {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []Missing
	if l.entries != nil {
		for _, entry := range l.entries.Values() {
			list = append(list, *entry)
		}
	}
	return list
}

// missing lists what was missing in each storage.
func missing(r *http.Request) (int, any, error) {
	if _, err := ParseQuery(r); err != nil {
		return 0, nil, err
	}
	sites, err := storages()
	if err != nil {
		return 0, nil, err
	}
	list := MissingList{Missing: []Missing{}}
	for _, s := range sites {
		list.Missing = append(list.Missing, s.Missing()...)
	}
	slices.SortStableFunc(list.Missing, func(a, b Missing) int {
		if a.Requests != b.Requests {
			return int(b.Requests - a.Requests)
		}
		return b.Last.Compare(a.Last)
	})
	return http.StatusOK, list, nil
}
