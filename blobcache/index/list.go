package index

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Linked describes a link without its value.
type Linked struct {
	Scope  string
	Digest digest.Digest
	Used   time.Time // when it was last saved or marked
}

// EachLink calls visit for all links until it returns an error, which EachLink
// returns. Links of scopes with the same first component are visited one after
// the other. The walk rests now and then.
func (x *Index) EachLink(ctx context.Context, visit func(Linked) error) error {
	return x.eachLink(ctx, store.WalkStride, visit)
}

func (x *Index) eachLink(ctx context.Context, stride int, visit func(Linked) error) error {
	return x.records.List(ctx, linksFolder, store.Paced(ctx, stride, func(r store.Record) error {
		scope, d, ok := parseLinkKey(r.Key)
		if !ok {
			return nil
		}
		return visit(Linked{scope, d, r.Used})
	}))
}

// MarkLink sets when a link was last used. Marking an absent link is not an error.
func (x *Index) MarkLink(ctx context.Context, scope string, d digest.Digest, used time.Time) error {
	return x.records.Mark(ctx, linkKey(scope, d), used)
}

// DropLink removes a link. Removing an absent link is not an error.
func (x *Index) DropLink(ctx context.Context, scope string, d digest.Digest) error {
	return drop(ctx, x, x.links, linkKey(scope, d))
}

// ForgetLink removes a link here, because its content is not stored here any more. A
// shared one stays for other processes. Forgetting an absent link is not an error.
func (x *Index) ForgetLink(ctx context.Context, scope string, d digest.Digest) error {
	return forget(ctx, x, x.links, linkKey(scope, d))
}

// LimitOwners keeps owners within limits in bytes where other processes share the links,
// until release is called. It does nothing if no others do.
func (x *Index) LimitOwners(limits map[string]int64) (release func()) {
	if limited, ok := x.records.(store.Limited); ok {
		return limited.LimitOwners(limits)
	}
	return func() {}
}

// forget is drop for records that only this process has no use for.
func forget[T any](ctx context.Context, x *Index, memory *lru.Cache[string, T], key string) error {
	if x.shared == nil {
		return drop(ctx, x, memory, key)
	}
	err := x.shared.Forget(ctx, key)
	x.drops.Add(1)
	memory.Remove(key)
	return err
}

// drop removes a record from disk and from memory.
func drop[T any](ctx context.Context, x *Index, memory *lru.Cache[string, T], key string) error {
	err := x.records.Delete(ctx, key)
	x.drops.Add(1)
	memory.Remove(key)
	return err
}

// Purge removes all links and refs whose keys begin with the components of
// prefix: an owner, or a scope followed by "/_". It calls lost for each link
// and returns their number. Other processes that share the records learn of it by
// [Index.LearnPurges].
func (x *Index) Purge(ctx context.Context, prefix string, lost func(digest.Digest)) (links int, err error) {
	if err := x.announce(ctx, prefix); err != nil {
		return 0, err
	}
	if x.Purged != nil {
		defer x.Purged(prefix)
	}
	err = x.records.List(ctx, linksFolder+"/"+prefix, func(r store.Record) error {
		_, d, ok := parseLinkKey(r.Key)
		if !ok {
			return nil
		}
		links++
		lost(d)
		return forget(ctx, x, x.links, r.Key)
	})
	if err != nil {
		return links, err
	}
	err = x.records.List(ctx, refsFolder+"/"+prefix, func(r store.Record) error { return forget(ctx, x, x.refs, r.Key) })
	// Records that could not be saved are in memory only.
	forgetBelow(x.links, linksFolder+"/"+prefix+"/", func(linkRecord) bool { return true })
	forgetBelow(x.refs, refsFolder+"/"+prefix+"/", func(Ref) bool { return true })
	if x.shared != nil && err == nil {
		err = errors.Join(x.shared.DeleteBelow(ctx, linksFolder+"/"+prefix), x.shared.DeleteBelow(ctx, refsFolder+"/"+prefix))
	}
	return links, err
}

// forgetBelow removes the records from memory whose keys begin with prefix and for which
// meant returns true.
func forgetBelow[T any](memory *lru.Cache[string, T], prefix string, meant func(T) bool) {
	for _, key := range memory.Keys() {
		if value, ok := memory.Peek(key); ok && strings.HasPrefix(key, prefix) && meant(value) {
			memory.Remove(key)
		}
	}
}

// Forget removes deliveries and refs here that were last saved or marked before a
// time and whose content is gone. Shared ones stay. It reads each such ref.
func (x *Index) Forget(ctx context.Context, before time.Time, gone func(digest.Digest) bool) error {
	err := x.records.List(ctx, deliveriesFolder, store.Paced(ctx, store.WalkStride, func(r store.Record) error {
		d, ok := parseDeliveryKey(r.Key)
		if !ok || !r.Used.Before(before) || !gone(d) {
			return nil
		}
		return forget(ctx, x, x.deliveries, r.Key)
	}))
	if err != nil {
		return err
	}
	return x.records.List(ctx, refsFolder, store.Paced(ctx, store.WalkStride, func(r store.Record) error {
		if !r.Used.Before(before) {
			return nil
		}
		data, err := x.records.Load(ctx, r.Key)
		if err != nil {
			return nil
		}
		var ref Ref
		readable := json.Unmarshal(data, &ref) == nil && ref.Digest.Validate() == nil
		if readable && !gone(ref.Digest) {
			return nil
		}
		return forget(ctx, x, x.refs, r.Key)
	}))
}

// RefName names a ref.
type RefName struct {
	Scope, Name string
	Used        time.Time // when the ref was last saved or marked
}

// EachRef calls visit for the refs in all scopes of an owner, and of those that
// belong to it, until visit returns an error. EachRef returns that error unless
// it is [fs.SkipAll]. It reads none of the refs.
func (x *Index) EachRef(ctx context.Context, owner string, visit func(RefName) error) error {
	err := x.records.List(ctx, refsFolder+"/"+owner, func(r store.Record) error {
		rest, name, ok := cutLast(strings.TrimPrefix(r.Key, refsFolder+"/"), "/")
		scope, inScope := strings.CutSuffix(rest, "/_")
		if !ok || !inScope {
			return nil
		}
		return visit(RefName{Scope: scope, Name: name, Used: r.Used})
	})
	if err == fs.SkipAll {
		return nil
	}
	return err
}
