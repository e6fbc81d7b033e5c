package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

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
func (a *Policy) admits(holder, group string) bool {
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
func (a *Policy) nearest(group string) *groupPolicy {
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
func (a *Policy) holderOf(ctx context.Context, group string) (holder string, visibility directory.Visibility, err error) {
	nearest := a.nearest(group)
	for _, d := range a.directories {
		groups, ok := d.Directory.(directory.GroupDirectory)
		naming := !ok && directory.NamesGroups(d.Directory) && nearest != nil && len(nearest.from) == 0
		if !ok && !naming || !a.admits(d.Name, group) {
			continue
		}
		if naming && a.groups[group] == nil {
			break // it is below a group of this directory's, which has none of its own
		}
		if naming {
			return d.Name, "", nil
		}
		visibility, err = groups.VisibilityOf(ctx, group)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			err = fmt.Errorf("directory %s: %w", d.Name, err)
		}
		return d.Name, visibility, err
	}
	return "", "", fs.ErrNotExist
}

// counts reports whether the roles that a directory gives in a group count here.
func (a *Policy) counts(ctx context.Context, name, group string) (bool, error) {
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

// Ignored returns the declared groups in which the roles that a directory gives do
// not count, though it may have a group of the same path.
func (a *Policy) Ignored(d Named) (groups []string) {
	if _, ok := d.Directory.(directory.GroupDirectory); !ok {
		return nil
	}
	for path := range a.groups {
		if !a.admits(d.Name, path) {
			groups = append(groups, path)
		}
	}
	slices.Sort(groups)
	return groups
}

// OpenDirectories returns the names of the directories whose groups may be public.
func (a *Policy) OpenDirectories() (names []string) {
	for _, d := range a.directories {
		if directory.GroupsMayBePublic(d.Directory) {
			names = append(names, d.Name)
		}
	}
	return names
}

// ShareOf returns the group that a group's downloads count for: the nearest one
// that is declared, or else the first component.
func (a *Policy) ShareOf(group string) string {
	for at := group; ; {
		if a.groups[at] != nil {
			return at
		}
		end := strings.LastIndexByte(at, '/')
		if end < 0 {
			return at
		}
		at = at[:end]
	}
}
