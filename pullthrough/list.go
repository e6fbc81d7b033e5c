package pullthrough

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

const (
	maxLists = 1024

	// maxListBytes is twice the size of the largest page, so that such a page
	// leaves room for others, and as large as maxAnswers.
	maxListBytes = 64 << 20
)

// Lists remembers the pages of lists that were asked for last, at most 1024 and
// 64 MiB. Clients that ask for the same page share its content.
type Lists struct{ pages *memo.Cache[*upstream.Page] }

// NewLists returns an empty Lists. A list is served for freshFor without asking
// upstream again. After that it is served only if upstream fails or takes long, up to
// the age of [Config.StaleFor].
func NewLists(freshFor time.Duration) *Lists {
	return &Lists{memo.New(memo.Config[*upstream.Page]{
		Size: maxLists, Fresh: freshFor,
		Weigh: func(page *upstream.Page) int { return len(page.Content) }, MaxWeight: maxListBytes,
	})}
}

// ForgetGroup forgets the lists of a group and its subgroups.
func (l *Lists) ForgetGroup(group string) { l.forget(group + "/") }

// ForgetScope forgets the lists of one repository.
func (l *Lists) ForgetScope(scope string) { l.forget(listKey(scope, "")) }

func (l *Lists) forget(prefix string) {
	l.pages.ForgetFunc(func(key string) bool { return strings.HasPrefix(key, prefix) })
}

// listKey begins with the scope, which begins with the group.
func listKey(scope, question string) string { return scope + " " + question }

// Tags returns one page of the repository's tags as a JSON array, the value of
// "tags" in a tag list. The object around it depends on the name that the client
// has for the repository. The query holds the parameters of paging; see
// [upstream.Registry.Tags]. Other requests share the page, so it must not be
// changed. Errors are those of [Repository.ManifestByTag].
func (r *Repository) Tags(ctx context.Context, query url.Values) (*upstream.Page, Origin, error) {
	return r.list(ctx, "tags "+query.Encode(), func(ctx context.Context) (upstream.Page, error) {
		return r.config.Registry.Tags(ctx, r.config.Name, query)
	})
}

// Referrers returns the index of what refers to a manifest, of one artifact type
// unless that is empty; see [upstream.Registry.Referrers]. Other requests share
// the page, so it must not be changed. Errors are those of
// [Repository.ManifestByTag].
func (r *Repository) Referrers(ctx context.Context, d digest.Digest, artifactType string) (*upstream.Page, Origin, error) {
	return r.list(ctx, "referrers "+d.String()+" "+artifactType, func(ctx context.Context) (upstream.Page, error) {
		return r.config.Registry.Referrers(ctx, r.config.Name, d, artifactType)
	})
}

// list returns the known answer to a question while it is fresh, otherwise the answer of
// upstream, or a known one that is not fresh if upstream fails or takes long. It does not ask
// by [memo.Cache.Get], since repositories that share Lists need not share Flights.
func (r *Repository) list(ctx context.Context, question string, ask func(context.Context) (upstream.Page, error)) (*upstream.Page, Origin, error) {
	pages, key := r.config.Lists.pages, listKey(r.config.Scope, question)
	known, ok := pages.Peek(key)
	if ok && known.IsFresh() {
		return known.Value, Origin{Status: Hit, Checked: known.At}, nil
	}
	waiting, answered := watchLoop(ctx, r, question, ask)
	defer answered()
	mayServe := ok && (r.mayServe(known.At) || r.config.Registry.IsOffline())
	if err := r.absence(question); err != nil {
		if mayServe {
			return known.Value, Origin{Stale, ReasonOf(err), known.At}, nil
		}
		return nil, Origin{Status: Miss}, err
	}
	if mayServe {
		var done func()
		waiting, done = r.patient(waiting, question)
		defer done()
	}
	page, err := once(waiting, r, question, func(ctx context.Context) (*upstream.Page, error) {
		page, err := inTurn(ctx, r, func() (upstream.Page, error) { return ask(ctx) })
		if r.noteAbsence(ctx, question, err); err != nil {
			return nil, err
		}
		if !r.isPurged(ctx) {
			pages.Set(key, &page)
		}
		return &page, nil
	})
	switch {
	case err == nil:
		return page, Origin{Status: Miss, Checked: time.Now()}, nil
	case ctx.Err() != nil:
		return nil, Origin{Status: Miss}, context.Cause(ctx)
	case mayServe:
		return known.Value, Origin{Stale, ReasonOf(err), known.At}, nil
	}
	return nil, Origin{Status: Miss}, err
}
