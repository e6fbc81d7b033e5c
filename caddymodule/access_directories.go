package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
)

// Whoever may make groups in a directory chooses their paths, and so could claim
// a path that the configuration means for others. So a directory's groups and the
// roles in them count here only where the configuration leaves room for them:
//
//   - Where the nearest declared group has `members_from`, at or above a path, the
//     directories that it names count there.
//   - Elsewhere no directory counts if the declared group at the path, or any
//     declared one above it, lists accounts.
//   - Of the others, one alone counts: the first that has the group.

// upwards returns a group's path and those of the groups above it.
func upwards(group string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for path := group; path != "" && yield(path); path = path[:max(strings.LastIndexByte(path, '/'), 0)] {
		}
	}
}

// admits reports whether the configuration leaves room for groups of a directory
// at a path.
func (a *access) admits(directory, group string) bool {
	var nearest *groupAccess
	listed := false
	for path := range upwards(group) {
		g := a.groups[path]
		if g == nil {
			continue
		}
		if nearest == nil {
			nearest = g
		}
		listed = listed || g.lists
	}
	if nearest != nil && len(nearest.from) > 0 {
		return slices.Contains(nearest.from, directory)
	}
	return !listed
}

// holderOf returns the first directory that has a group, and the visibility that
// it gives it; fs.ErrNotExist if none has it. If one cannot tell, those after it
// are not asked.
func (a *access) holderOf(ctx context.Context, group string) (directory string, visibility Visibility, err error) {
	for _, d := range a.directories {
		groups, ok := d.Directory.(GroupDirectory)
		if !ok || !a.admits(d.name, group) {
			continue
		}
		visibility, err = groups.VisibilityOf(ctx, group)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			err = fmt.Errorf("directory %s: %w", d.name, err)
		}
		return d.name, visibility, err
	}
	return "", "", fs.ErrNotExist
}

// counts reports whether the roles that a directory gives in a group count here.
func (a *access) counts(ctx context.Context, directory, group string) (bool, error) {
	if !a.admits(directory, group) {
		return false, nil
	}
	declared := a.groups[group]
	if declared != nil && len(declared.from) > 0 {
		return true, nil
	}
	holder, _, err := a.holderOf(ctx, group)
	if errors.Is(err, fs.ErrNotExist) {
		return declared != nil, nil
	}
	return holder == directory, err
}
