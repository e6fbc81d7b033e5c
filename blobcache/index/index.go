// Package index records which content a repository is known to contain, which
// manifests its tags named, and what a source has delivered.
//
// A [Link] lets a scope have stored content. It exists only where the scope's own
// source has delivered the content, or has delivered it to another scope and
// confirmed it for this one: the same digest from another source does not count. A
// [Delivery] says that a source has delivered content to any of its scopes. A
// [Ref] records the manifest that a tag named when the source was last asked.
//
// All of them are records in a [store.Records], with the recent ones in memory. A
// lost record costs a question to the source, never a wrong answer. If several processes
// share the records, purges are recorded too, and links and refs from before a purge do
// not count in any of them.
package index

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Link says that a scope contains content. It exists only where the scope's own
// source has delivered the content, or has delivered it to another scope and
// confirmed it for this one. Content of another source with the same digest, or
// a manifest that names the digest, does not create a link.
type Link struct {
	// MediaType is the source's media type. It is empty for a blob.
	MediaType string `json:"mediaType,omitempty"`
	// Size is the size in bytes.
	Size int64 `json:"size"`
}

// Ref records the manifest that a tag named when the source was last asked.
type Ref struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	// Checked is when the source last confirmed the ref. After a restart it may
	// be up to ten minutes earlier, and it is zero for a ref that a version
	// before this field has stored.
	Checked time.Time `json:"checked,omitzero"`
	// Since is when the ref was first recorded with the digest. [Index.SetRef]
	// sets it.
	Since time.Time `json:"since,omitzero"`
	// NotBefore is the earliest time to ask the source again after it failed,
	// and Reason says how. They are not stored.
	NotBefore time.Time `json:"-"`
	Reason    string    `json:"-"`
	// Learned is set if another process has got the confirmation from the source. It is
	// not stored.
	Learned bool `json:"-"`

	linked *atomic.Bool // nil for a ref that the index does not know
	saved  time.Time    // Checked as it is stored
}

// refStride is how often it is stored that a ref was confirmed without a change.
// sharedRefStride takes its place if other processes share the ref: what is stored saves
// them a question to the source.
const (
	refStride       = 10 * time.Minute
	sharedRefStride = 5 * time.Second
)

// Linked reports whether SetLinked has been called for the ref since the
// process started.
func (r Ref) Linked() bool { return r.linked != nil && r.linked.Load() }

// SetLinked records that the scope has a link to the ref's content, so that its
// next use needs one look-up instead of two.
func (r Ref) SetLinked() {
	if r.linked != nil {
		r.linked.Store(true)
	}
}

// Index records which content a scope contains, and what its tags stand for. A
// scope is a slash-separated path OWNER/_/SOURCE/REPOSITORY: a repository of a
// source, and the owner on whose behalf it is asked. SOURCE is a single
// component, and no other component may be "_". An owner may have several
// components; a/b belongs to a. Index is safe for concurrent use.
//
// A lost link costs a question to the source, and the last writer of a ref
// wins, so processes that share the records need no agreement.
type Index struct {
	records store.Records
	shared  store.Tiered // the records, if other processes share them, else nil
	links   *lru.Cache[string, linkRecord]
	refs    *lru.Cache[string, Ref]
	drops   atomic.Uint64 // how many records have been removed
	purges  purges
	stride  time.Duration // how often it is stored that a ref was confirmed

	deliveries *lru.Cache[string, Delivery]
	adoption   atomic.Pointer[adoption] // under way, else nil

	// Purged, if not nil, is called with the prefix of each purge of this process, and of
	// each one that it learns from another; see [Index.Purge]. It must be set before the
	// index is used.
	Purged func(prefix string)
}

// indexEntries bounds each of the three memories. They take some 30 MiB when
// full.
const indexEntries = 64 << 10

// New returns an index that stores its records in records.
func New(records store.Records) *Index {
	links, err1 := lru.New[string, linkRecord](indexEntries)
	refs, err2 := lru.New[string, Ref](indexEntries)
	deliveries, err3 := lru.New[string, Delivery](indexEntries)
	x := &Index{records: records, links: links, refs: refs, deliveries: deliveries, stride: refStride}
	x.purges.turn = make(chan struct{}, 1)
	var err4 error
	x.purges.last, err4 = lru.NewWithEvict(maxPurges, x.purges.drop)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		panic(err) // the size is a positive constant
	}
	if shared, ok := records.(store.Tiered); ok {
		x.shared, x.stride = shared, sharedRefStride
	}
	return x
}

// Link returns the link from a scope to content. If the scope is not known to
// contain it, the error is fs.ErrNotExist.
func (x *Index) Link(ctx context.Context, scope string, d digest.Digest) (Link, error) {
	record, err := recall(ctx, x, x.links, linkKey(scope, d), func(r *linkRecord) error { return x.check(scope, *r) })
	return record.Link, err
}

// AddLink records that the scope contains content that its source has
// delivered. A link without a media type keeps the known one, since manifests
// can be fetched as blobs too. After an error the link is not on disk, but
// holds until the process ends.
func (x *Index) AddLink(ctx context.Context, scope string, d digest.Digest, link Link) error {
	key := linkKey(scope, d)
	record := linkRecord{Link: link, Proof: proved}
	known, err := recall(ctx, x, x.links, key, func(r *linkRecord) error { return x.check(scope, *r) })
	if err == nil && link.MediaType == "" {
		record.MediaType = known.MediaType
	}
	if record.Added = known.Added; err == nil && known == record {
		return nil
	}
	record.Added = time.Now()
	x.links.Add(key, record)
	return save(ctx, x.records, key, record)
}

// check returns an error if a stored link does not count.
func (x *Index) check(scope string, r linkRecord) error {
	return cmp.Or(x.proofOf(scope, r), x.voidError(scope, r.Added))
}

// Ref returns what a name in the scope stands for. If it is not known, the
// error is fs.ErrNotExist.
func (x *Index) Ref(ctx context.Context, scope, name string) (Ref, error) {
	return recall(ctx, x, x.refs, refKey(scope, name), func(ref *Ref) error {
		ref.linked, ref.saved = new(atomic.Bool), ref.Checked
		return cmp.Or(ref.Digest.Validate(), x.voidError(scope, ref.Checked))
	})
}

// LaterRef returns what another process has recorded for a name in the scope, if that was
// confirmed later than what [Index.Ref] returns. It may ask a shared storage, at most
// once in five seconds for each name, so callers use it only for refs that are no longer
// fresh. Ref does not return the result before [Index.SetRef] has recorded it.
func (x *Index) LaterRef(ctx context.Context, scope, name string) (later Ref, ok bool) {
	if x.shared == nil {
		return Ref{}, false
	}
	known, err := x.Ref(ctx, scope, name)
	if err != nil {
		return Ref{}, false // Ref has asked
	}
	data, err := x.shared.Reload(ctx, refKey(scope, name))
	if err != nil || json.Unmarshal(data, &later) != nil || later.Digest.Validate() != nil || !later.Checked.After(known.Checked) ||
		x.purges.void(scope, later.Checked) {
		return Ref{}, false
	}
	later.Learned = true
	return later, true
}

// SetRef records what a name stands for. It writes to disk only if that has
// changed, or if what is stored was confirmed more than ten minutes earlier, or more than
// five seconds earlier if other processes share the records and have not sent it; after an
// error the ref holds until the process ends.
func (x *Index) SetRef(ctx context.Context, scope, name string, ref Ref) error {
	if ref.Learned && x.purges.void(scope, ref.Checked) {
		return nil // since it was learned
	}
	key := refKey(scope, name)
	old, err := x.Ref(ctx, scope, name)
	same := err == nil && old.Digest == ref.Digest
	if ref.linked = new(atomic.Bool); same && old.linked != nil {
		ref.linked = old.linked
	}
	if same {
		ref.Since = old.Since
	}
	if !same && !ref.Learned || ref.Since.IsZero() {
		ref.Since = time.Now()
	}
	stride := x.stride
	if ref.Learned {
		stride = refStride // the other process has written it
	}
	age := ref.Checked.Sub(old.saved)
	recent := age < stride && !(age < 0 && old.saved.After(time.Now())) // that of a clock that was ahead is replaced
	if same && old.MediaType == ref.MediaType && old.Size == ref.Size && recent {
		ref.saved = old.saved
		x.refs.Add(key, ref)
		return nil
	}
	ref.saved = ref.Checked
	x.refs.Add(key, ref)
	return save(ctx, x.records, key, ref)
}

// MarkRef records when a ref was last used, which [Index.EachRef] reports. Marking
// an absent ref is not an error.
func (x *Index) MarkRef(ctx context.Context, scope, name string, used time.Time) error {
	return x.records.Mark(ctx, refKey(scope, name), used)
}

func recall[T any](ctx context.Context, x *Index, memory *lru.Cache[string, T], key string, check func(*T) error) (T, error) {
	if value, ok := memory.Get(key); ok {
		return value, nil
	}
	var value T
	drops := x.drops.Load()
	data, err := x.records.Load(ctx, key)
	if err != nil {
		return value, err
	}
	err = json.Unmarshal(data, &value)
	if err == nil {
		err = check(&value)
	}
	if err != nil {
		return *new(T), fmt.Errorf("record %s is damaged: %w", key, errors.Join(err, fs.ErrNotExist))
	}
	if newer, ok, _ := memory.PeekOrAdd(key, value); ok {
		return newer, nil // it was set meanwhile
	}
	if x.drops.Load() != drops {
		memory.Remove(key) // it may have been dropped meanwhile, and must not outlive that
	}
	return value, nil
}

func save(ctx context.Context, records store.Records, key string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return records.Save(ctx, key, data)
}
