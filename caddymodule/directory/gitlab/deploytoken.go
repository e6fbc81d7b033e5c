package gitlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
)

// A deploy token belongs to one group for ever, but GitLab does not say to which: one has
// to ask for the token in each group. The groups that the request is about come first,
// then all groups that the service token can see.

// The limits on the search.
const (
	maxGroupPages = 10
	maxSearch     = time.Minute
)

// deployOwner is the group of a deploy token. It is 0 if the token was not found, at that
// time, among the groups of some patterns.
type deployOwner struct {
	group int64
	at    time.Time
	among string
}

// checkDeploy checks a login with a deploy token. Unless the login is known to be right, it
// is counted in the budget.
func (d *Directory) checkDeploy(ctx context.Context, login directory.Login, hints []string, known bool) (c credential, err error) {
	right := func() {}
	if !known {
		if right, err = d.deploys.take(login); err != nil {
			return c, err
		}
	}
	seen := time.Now()
	id, err := d.client.DeployLogin(ctx, login.Name, login.Password)
	if err == nil {
		right()
	}
	if errors.Is(err, gitlabapi.ErrForbidden) {
		return c, errScopes
	}
	if err != nil {
		return c, err
	}
	group, err := d.ownerOf(ctx, id, hints)
	if err != nil {
		return c, err
	}
	if group == 0 {
		return c, fmt.Errorf("%w: the service token sees no group with this deploy token: %w", directory.ErrWrongPassword, directory.ErrThisRequest)
	}
	return credential{Kind: deployToken, ID: id, In: group, Seen: seen.Unix(), PullOnly: true}, nil
}

// deployAccount returns the account of a deploy token, if it is still valid. Its name is
// the one that GitLab generates: a token may have been given another name, even that of a
// user.
func (d *Directory) deployAccount(ctx context.Context, c credential) (directory.Account, error) {
	token, err := d.answers.deployTokens.Get(ctx, fmt.Sprintf("%d/%d", c.In, c.ID), func(ctx context.Context) (gitlabapi.DeployToken, error) {
		return d.client.DeployToken(ctx, c.In, c.ID)
	})
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && (token.Revoked || token.Expired):
		return directory.Account{}, directory.ErrUnknownAccount
	case err == nil && !gitlabapi.MayPull(token.Scopes):
		return directory.Account{}, errScopes
	case err != nil:
		return directory.Account{}, err
	}
	group, err := d.answers.groups.Get(ctx, fmt.Sprintf("#%d", c.In), func(ctx context.Context) (gitlabapi.Group, error) {
		return d.client.GroupByID(ctx, c.In)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	if err != nil {
		return directory.Account{}, err
	}
	path := strings.ToLower(group.FullPath)
	if !d.exists(path) {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	return directory.Account{
		Name: fmt.Sprintf("gitlab+deploy-token-%d", c.ID), Facts: c.facts(),
		Roles: map[string]directory.Role{path: directory.Member}, Only: []string{path}, PullOnly: true,
	}, nil
}

// ownerOf returns the group of a deploy token, or 0 if the service token sees no group
// with it.
func (d *Directory) ownerOf(ctx context.Context, id int64, hints []string) (int64, error) {
	among := fmt.Sprintf("%q", d.Groups)
	owner, ok := d.owners.Get(id)
	if ok && owner.group != 0 {
		return owner.group, nil
	}
	// This request may be about other groups than those that were searched.
	searched := ok && owner.among == among && time.Since(owner.at) < time.Duration(d.Grace)
	ctx, cancel := context.WithTimeout(ctx, maxSearch)
	defer cancel()
	group, err := d.hintedOwner(ctx, id, hints)
	for page := 1; group == 0 && err == nil && !searched && page <= maxGroupPages; page++ {
		var list []gitlabapi.Group
		if list, err = d.client.Groups(ctx, page); err != nil {
			break
		}
		group, err = d.ownerAmong(ctx, id, list)
		if len(list) < gitlabapi.GroupsPage {
			break
		}
	}
	if err == nil && (group != 0 || !searched) {
		d.owners.Add(id, deployOwner{group, time.Now(), among})
	}
	return group, err
}

// hintedOwner searches some groups and the groups above them.
func (d *Directory) hintedOwner(ctx context.Context, id int64, hints []string) (int64, error) {
	for _, path := range hints {
		for ; path != ""; path = path[:max(strings.LastIndexByte(path, '/'), 0)] {
			group, err := d.group(ctx, path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return 0, err
			}
			if owner, err := d.ownerAmong(ctx, id, []gitlabapi.Group{group}); owner != 0 || err != nil {
				return owner, err
			}
		}
	}
	return 0, nil
}

// ownerAmong searches some groups, a few at a time.
func (d *Directory) ownerAmong(ctx context.Context, id int64, groups []gitlabapi.Group) (int64, error) {
	var owner atomic.Int64
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(8)
	for _, group := range groups {
		if !d.exists(strings.ToLower(group.FullPath)) {
			continue
		}
		asking.Go(func() error {
			if owner.Load() != 0 {
				return nil
			}
			_, err := d.client.DeployToken(ctx, group.ID, id)
			switch {
			case err == nil:
				owner.Store(group.ID)
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, gitlabapi.ErrHidden):
				return nil
			}
			return err
		})
	}
	if err := asking.Wait(); owner.Load() == 0 {
		return 0, err
	}
	return owner.Load(), nil
}
