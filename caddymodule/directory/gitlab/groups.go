package gitlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
)

// How many questions about groups that are not remembered may be asked: anybody
// may ask for any name. Each account, and each address of anonymous callers, has
// a bucket of its own; behind these, all accounts share one and all anonymous
// callers another, so that neither one account nor all anonymous callers
// together use up what the others need.
const (
	askerEvery, askerBurst         rate.Limit = 2, 30
	accountsEvery, accountsBurst   rate.Limit = 10, 100
	anonymousEvery, anonymousBurst rate.Limit = 5, 50

	// maxAskers is how many accounts and addresses are remembered.
	maxAskers = 4096
)

// groupQuestions bounds the questions to one instance.
type groupQuestions struct {
	askers              *lru.Cache[directory.Asker, *rate.Limiter]
	accounts, anonymous *rate.Limiter
}

func newGroupQuestions() *groupQuestions {
	askers, err := lru.New[directory.Asker, *rate.Limiter](maxAskers)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &groupQuestions{askers, rate.NewLimiter(accountsEvery, int(accountsBurst)), rate.NewLimiter(anonymousEvery, int(anonymousBurst))}
}

// allow takes one question from the buckets of the asker. Without an asker the
// question comes from the admin endpoint or from a login that GitLab has just
// accepted.
func (q *groupQuestions) allow(ctx context.Context) bool {
	a, ok := directory.AskerOf(ctx)
	if !ok {
		return q.accounts.Allow()
	}
	own, ok := q.askers.Get(a)
	if !ok {
		own = rate.NewLimiter(askerEvery, int(askerBurst))
		if before, found, _ := q.askers.PeekOrAdd(a, own); found {
			own = before
		}
	}
	switch {
	case !own.Allow():
		return false
	case a.Subnet != "":
		return q.anonymous.Allow()
	}
	return q.accounts.Allow()
}

// group asks for a group; fs.ErrNotExist if there is none that the service token
// can see, or if it does not exist here.
func (d *Directory) group(ctx context.Context, path string) (gitlabapi.Group, error) {
	if !d.exists(path) {
		return gitlabapi.Group{}, fmt.Errorf("group %s is not among the groups of the directory: %w", path, fs.ErrNotExist)
	}
	if _, known := d.answers.groups.Peek(path); !known && !d.questions.allow(ctx) {
		return gitlabapi.Group{}, &gitlabapi.Trouble{What: "group " + path, Err: errors.New("too many groups are asked for that nobody knows")}
	}
	return d.answers.groups.Get(ctx, path, func(ctx context.Context) (gitlabapi.Group, error) {
		return d.client.Group(ctx, path)
	})
}

// exists reports whether the configuration lets a group of GitLab exist here.
func (d *Directory) exists(path string) bool {
	return d.Groups == nil || slices.ContainsFunc(d.Groups, func(pattern string) bool { return doublestar.MatchUnvalidated(pattern, path) })
}

// MayBePublic implements [Closed].
func (d *Directory) MayBePublic() bool { return d.MembersOnly != nil && !*d.MembersOnly }

func (d *Directory) checkGroups() error {
	if d.Groups != nil && len(d.Groups) == 0 {
		return errors.New("directory gitlab: groups is empty; write patterns, or leave it out")
	}
	for _, pattern := range d.Groups {
		if lower := strings.ToLower(pattern); lower != pattern {
			return fmt.Errorf("directory gitlab: groups '%s': paths of groups are in lower case here; write %s", pattern, lower)
		}
		for _, component := range strings.Split(pattern, "/") {
			if err := parse.Pattern(component, parse.IsNameByte); err != nil {
				return fmt.Errorf("directory gitlab: groups '%s': %w; write paths of groups, as in acme, acme/* or acme/**", pattern, err)
			}
		}
	}
	return nil
}
