package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// A user who may create groups in a directory chooses their paths, and so could claim
// a path that the configuration means for others. So a directory's groups and the
// roles in them count here only where the configuration leaves room for them:
//
//   - Where the nearest declared group has `members_from`, at or above a path, the
//     directories that it names count there.
//   - Elsewhere no directory counts if the declared group at the path, or any
//     declared one above it, lists accounts, or has some by a directory's map line.
//   - Of the others, one alone counts: the first that has the group. One that
//     cannot be asked which groups it has is taken to have all that are declared.

// upwards returns a group's path and those of the groups above it.
func upwards(group string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for path := group; path != "" && yield(path); path = path[:max(strings.LastIndexByte(path, '/'), 0)] {
		}
	}
}

// admits reports whether the configuration leaves room for groups of a directory
// at a path.
func (a *access) admits(holder, group string) bool {
	if nearest := a.nearest(group); nearest != nil && len(nearest.from) > 0 {
		return slices.Contains(nearest.from, holder)
	}
	for path := range upwards(group) {
		if g := a.groups[path]; g != nil && g.lists {
			return false
		}
	}
	return true
}

// nearest returns the nearest declared group at or above a path, nil if there is none.
func (a *access) nearest(group string) *groupAccess {
	for path := range upwards(group) {
		if g := a.groups[path]; g != nil {
			return g
		}
	}
	return nil
}

// holderOf returns the first directory that has a group, and the visibility that
// it gives it; fs.ErrNotExist if none has it. If one cannot tell, those after it
// are not asked.
func (a *access) holderOf(ctx context.Context, group string) (holder string, visibility directory.Visibility, err error) {
	nearest := a.nearest(group)
	for _, d := range a.directories {
		groups, ok := d.Directory.(directory.GroupDirectory)
		naming := !ok && directory.NamesGroups(d.Directory) && nearest != nil && len(nearest.from) == 0
		if !ok && !naming || !a.admits(d.name, group) {
			continue
		}
		if naming && a.groups[group] == nil {
			break // it is below a group of this directory's, which has none of its own
		}
		if naming {
			return d.name, "", nil
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
func (a *access) counts(ctx context.Context, name, group string) (bool, error) {
	if !a.admits(name, group) {
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
	return holder == name, err
}

// tellOfMembers logs in which groups the members that a directory may have in a
// group of the same path do not count: earlier versions counted them.
func (h *Handler) tellOfMembers() {
	for _, d := range h.accounts.directories {
		if _, ok := d.Directory.(directory.GroupDirectory); !ok {
			continue
		}
		var groups []string
		for _, g := range h.Groups {
			if !h.access.admits(d.name, g.Path) {
				groups = append(groups, g.Path)
			}
		}
		if groups != nil {
			h.logger.Info("the directory's members of these groups do not count, since the configuration says who is in them; write members_from in those where they should",
				zap.String("directory", d.name), zap.Strings("groups", groups))
		}
	}
}
