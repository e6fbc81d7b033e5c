package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

const (
	// maxStretch is the factor by which FreshFor grows if nothing is left of the
	// budget of pulls.
	maxStretch = 4

	// maxUses is how many tags have their uses counted, while budgets are scarce.
	maxUses = 4096

	// usesHalve is the time after which a use counts half as much.
	usesHalve = time.Hour
)

// stretched returns how long a tag is fresh: the usual time, or while few pulls are left,
// up to maxStretch times as long.
func (r *Repository) stretched(usual time.Duration) time.Duration {
	factor := 1 + r.config.Registry.Scarcity()*(maxStretch-1)
	if factor == 1 || usual > math.MaxInt64/maxStretch {
		return usual
	}
	return time.Duration(float64(usual) * factor)
}

// saves reports whether few pulls are left and none need be spent on a tag, because the
// known answer may be served.
func (r *Repository) saves(known index.Ref) bool {
	return r.config.Registry.Scarcity() > 0 && r.mayServe(known.Checked)
}

// ask asks upstream what a tag stands for. While few pulls are left, a tag for which
// there is a known answer is asked about by HEAD alone, which does not count as a pull.
func (r *Repository) ask(ctx context.Context, tag choice, old *index.Ref) (upstream.Descriptor, error) {
	ask, get := r.config.Registry.ResolveTag, r.config.Registry.RefetchTag
	if old != nil && r.saves(*old) {
		ask = r.config.Registry.HeadTag
		get = func(context.Context, string, string, mediatype.Accept) (upstream.Manifest, error) {
			return upstream.Manifest{}, ratelimit.ErrNoPull
		}
	}
	return r.confirm(ctx, func() (upstream.Manifest, error) {
		return ask(ctx, r.config.Name, tag.tag, tag.accept)
	}, func() (upstream.Manifest, error) {
		return get(ctx, r.config.Name, tag.tag, tag.accept)
	})
}

// fetchMoved fetches the content of what a tag stands for now, and the images of it that
// clients will pull next; old is what the tag stood for before, or nil. While few pulls are
// left, tags that have moved are fetched one by one, the most used one first.
func (r *Repository) fetchMoved(ctx context.Context, tag choice, old *index.Ref, ref index.Ref) (index.Ref, error) {
	fetch := r.tagContent
	if _, believed := r.believed(ctx, tag, ref); !believed && old != nil && r.saves(*old) {
		done, err := r.config.Registry.AwaitPull(ctx, r.config.Questions.uses.of(r.useKey(tag), time.Now()))
		if err != nil {
			return ref, err
		}
		defer done()
		fetch = r.namedContent
	}
	ref, content, _, err := fetch(ctx, tag, ref)
	content.Close()
	if err == nil && old != nil {
		err = r.fetchPlatforms(ctx, *old, ref)
	}
	return ref, err
}

// errContradiction means that upstream has named a manifest by HEAD that no GET finds. It is
// not asked again soon, because each attempt costs a pull.
var errContradiction = fmt.Errorf("HEAD names a manifest that GET does not find: %w", ratelimit.ErrNoPull)

// namedContent is tagContent without another GET if upstream does not serve the digest
// that it has named.
func (r *Repository) namedContent(ctx context.Context, tag choice, ref index.Ref) (index.Ref, *Content, bool, error) {
	content, hit, err := r.content(ctx, ref.Digest, false)
	switch upstream.KindOf(err) {
	case upstream.ManifestUnknown, upstream.NameUnknown, upstream.BlobUnknown, upstream.Denied, upstream.Invalid:
		return ref, nil, false, errContradiction
	}
	if err == nil {
		ref, _ = r.believed(ctx, tag, ref)
	}
	return ref, content, hit, err
}

// noteUse counts a pull of a tag if few pulls are left.
func (r *Repository) noteUse(tag choice) {
	if r.config.Registry.Scarcity() > 0 {
		r.config.Questions.uses.add(r.useKey(tag), time.Now())
	}
}

func (r *Repository) useKey(tag choice) string { return r.config.Scope + " " + tag.name() }

// isHeld reports whether an error means that upstream was not asked at all, because it is
// down or limits requests. No pause is recorded for the tag then: asking again costs no
// request and succeeds as soon as that is over. If upstream limits only pulls, it may have
// been asked by HEAD.
func isHeld(err error) bool {
	return upstream.IsHeld(err) && !isPullLimit(err)
}

func isPullLimit(err error) bool {
	var failure *upstream.Error
	return errors.As(err, &failure) && failure.Limit == ratelimit.Pulls
}

// retryAfter returns how long upstream demands not to be asked again, at most
// maxStaleHold. The rest of a pause in which upstream is not asked does not count as such
// a demand, because the pause may end early.
func retryAfter(err error) time.Duration {
	var failure *upstream.Error
	if !errors.As(err, &failure) || failure.Held && !isPullLimit(err) {
		return 0
	}
	return min(failure.RetryAfter, maxStaleHold)
}

// uses counts how often tags are used lately. The zero value is ready for use.
type uses struct {
	mu    sync.Mutex
	known *lru.Cache[string, use]
}

// use is the weight of the uses of a tag at the last one.
type use struct {
	weight float64
	last   time.Time
}

// at returns the weight at a later time.
func (u use) at(now time.Time) float64 {
	return u.weight * math.Exp2(-float64(now.Sub(u.last))/float64(usesHalve))
}

// add counts a use.
func (u *uses) add(key string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.known == nil {
		var err error
		if u.known, err = lru.New[string, use](maxUses); err != nil {
			panic(err) // the size is a positive constant
		}
	}
	before, _ := u.known.Get(key)
	u.known.Add(key, use{before.at(now) + 1, now})
}

// of returns the weight of the uses of a tag.
func (u *uses) of(key string, now time.Time) float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.known == nil {
		return 0
	}
	known, _ := u.known.Get(key)
	return known.at(now)
}
