package gitlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
)

// The limits on questions about groups that are not remembered, since anybody may ask for
// any name. Each account, and each address of anonymous clients, has a bucket of its own.
// All accounts share a second bucket, and all anonymous clients another, so neither one
// account nor all anonymous clients together use up the questions of the others.
const (
	askerEvery, askerBurst         rate.Limit = 2, 30
	accountsEvery, accountsBurst   rate.Limit = 10, 100
	anonymousEvery, anonymousBurst rate.Limit = 5, 50

	// maxAskers is the number of accounts and addresses that are remembered.
	maxAskers = 4096
)

// groupQuestions limits the questions about groups to one instance.
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

// allow takes one question from the buckets of the asker, and reports whether there was
// one. Questions without an asker come from the admin API, or from a login that GitLab has
// just accepted.
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

// group returns a group. The error is fs.ErrNotExist if the service token cannot see such
// a group, or if the configuration excludes it.
func (d *Directory) group(ctx context.Context, path string) (gitlabapi.Group, error) {
	if !d.exists(path) {
		return gitlabapi.Group{}, fmt.Errorf("the directory does not include group %s: %w", path, fs.ErrNotExist)
	}
	if _, known := d.answers.groups.Peek(path); !known && !d.questions.allow(ctx) {
		return gitlabapi.Group{}, &gitlabapi.Trouble{What: "group " + path, Err: errors.New("too many unknown groups were asked for")}
	}
	return d.answers.groups.Get(ctx, path, func(ctx context.Context) (gitlabapi.Group, error) {
		return d.client.Group(ctx, path)
	})
}

// exists reports whether the configuration includes a group of GitLab.
func (d *Directory) exists(path string) bool {
	return d.Groups == nil || slices.ContainsFunc(d.Groups, func(pattern string) bool { return doublestar.MatchUnvalidated(pattern, path) })
}

// MayBePublic implements [directory.GroupDirectory].
func (d *Directory) MayBePublic() bool { return d.MembersOnly != nil && !*d.MembersOnly }

// RoleIn implements [directory.GroupDirectory].
func (d *Directory) RoleIn(ctx context.Context, account directory.Account, path string) (directory.Role, error) {
	c, err := parseCredential(account.Facts)
	if err != nil || c.User == 0 {
		return directory.NoRole, nil // the account of a deploy token has its role
	}
	group, err := d.group(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return directory.NoRole, nil
	}
	if err != nil {
		return directory.NoRole, err
	}
	member, err := d.answers.members.Get(ctx, fmt.Sprintf("%d/%d", group.ID, c.User), func(ctx context.Context) (gitlabapi.Member, error) {
		return d.client.Member(ctx, group.ID, c.User)
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return directory.NoRole, nil
	case err != nil:
		return directory.NoRole, err
	case gitlabapi.Passed(member.ExpiresAt, time.Now()), member.State != "" && member.State != "active":
		return directory.NoRole, nil
	}
	return roleOfLevel(member.AccessLevel), nil
}

// roleOfLevel returns the role for an access level of GitLab ("Roles and permissions").
// Minimal access, which is below a guest's, shows no more than the name of the group.
func roleOfLevel(level int) directory.Role {
	switch {
	case level >= 50:
		return directory.Owner
	case level >= 40:
		return directory.Maintainer
	case level >= 10:
		return directory.Member
	}
	return directory.NoRole
}

// VisibilityOf implements [directory.GroupDirectory].
func (d *Directory) VisibilityOf(ctx context.Context, path string) (directory.Visibility, error) {
	group, err := d.group(ctx, path)
	switch {
	case err != nil:
		return "", err
	case !d.MayBePublic():
		return directory.Private, nil
	}
	switch v := directory.Visibility(group.Visibility); v {
	case directory.Public, directory.Internal:
		return v, nil
	}
	return directory.Private, nil
}
