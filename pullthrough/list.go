package pullthrough

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

const (
	defaultListsFresh = 30 * time.Second

	maxLists     = 1024
	maxListBytes = 32 << 20
)

// List is one page of a list that upstream has sent. All requests that are
// answered with it share it, so it must not be changed.
type List struct {
	upstream.Page
	at time.Time
}

// Lists remembers the lists that were asked for last, at most 1024 and 32 MiB.
type Lists struct {
	// FreshFor is how long a list is served without asking upstream again. After
	// that it is served only while upstream fails.
	FreshFor time.Duration

	mu    sync.Mutex
	known *simplelru.LRU[string, *List]
	bytes int
}

// NewLists returns an empty Lists, whose lists are fresh for 30 seconds.
func NewLists() *Lists {
	l := &Lists{FreshFor: defaultListsFresh}
	known, err := simplelru.NewLRU(maxLists, func(_ string, old *List) { l.bytes -= len(old.Content) })
	if err != nil {
		panic(err) // the size is a positive constant
	}
	l.known = known
	return l
}

func (l *Lists) get(key string) (list *List, fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list, ok := l.known.Get(key)
	return list, ok && time.Since(list.at) < l.FreshFor
}

func (l *Lists) add(key string, list *List) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known.Remove(key)
	l.known.Add(key, list)
	for l.bytes += len(list.Content); l.bytes > maxListBytes; {
		l.known.RemoveOldest()
	}
}

// ForgetGroup forgets the lists of a group and its subgroups.
func (l *Lists) ForgetGroup(group string) { l.forget(group + "/") }

// ForgetScope forgets the lists of one repository.
func (l *Lists) ForgetScope(scope string) { l.forget(listKey(scope, "")) }

func (l *Lists) forget(prefix string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range l.known.Keys() {
		if strings.HasPrefix(key, prefix) {
			l.known.Remove(key)
		}
	}
}

// listKey begins with the scope, which begins with the group.
func listKey(scope, question string) string { return scope + " " + question }

// Tags returns one page of the repository's tags as a JSON array, the value of
// "tags" in a tag list. The object around it depends on the name that the client
// has for the repository. The query holds the parameters of paging; see
// [upstream.Registry.Tags]. Errors are those of [Repository.ManifestByTag].
func (r *Repository) Tags(ctx context.Context, query url.Values) (*List, Status, error) {
	return r.list(ctx, "tags "+query.Encode(), func(ctx context.Context) (upstream.Page, error) {
		page, err := r.config.Registry.Tags(ctx, r.config.Name, query)
		if err == nil {
			page.Content, err = tagsOf(page.Content)
		}
		return page, err
	})
}

// tagsOf returns the array of tags in a tag list.
func tagsOf(content []byte) ([]byte, error) {
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(content, &list); err != nil {
		return nil, fmt.Errorf("reading the list of tags: %w", err)
	}
	if list.Tags == nil {
		list.Tags = []string{} // some clients fail on null
	}
	return json.Marshal(list.Tags)
}

// Referrers returns the index of what refers to a manifest, of one artifact type
// unless that is empty; see [upstream.Registry.Referrers]. Errors are those of
// [Repository.ManifestByTag].
func (r *Repository) Referrers(ctx context.Context, d digest.Digest, artifactType string) (*List, Status, error) {
	return r.list(ctx, "referrers "+d.String()+" "+artifactType, func(ctx context.Context) (upstream.Page, error) {
		return r.config.Registry.Referrers(ctx, r.config.Name, d, artifactType)
	})
}

// list returns the known answer to a question while it is fresh, otherwise
// upstream's, and the known one again if upstream fails.
func (r *Repository) list(ctx context.Context, question string, ask func(context.Context) (upstream.Page, error)) (*List, Status, error) {
	key := listKey(r.config.Scope, question)
	known, fresh := r.config.Lists.get(key)
	if fresh {
		return known, Hit, nil
	}
	list, err := once(ctx, r, question, func(ctx context.Context) (*List, error) {
		page, err := inTurn(ctx, r, func() (upstream.Page, error) { return ask(ctx) })
		if err != nil {
			return nil, err
		}
		list := &List{page, time.Now()}
		r.config.Lists.add(key, list)
		return list, nil
	})
	switch {
	case err == nil:
		return list, Miss, nil
	case known != nil && ctx.Err() == nil:
		return known, Stale, nil
	}
	return nil, Miss, err
}
