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
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/traces"
)

// A user who may create groups in a directory chooses their paths, and could
// claim a path that the configuration means for others. So the groups of a
// directory, and the roles in them, only count where the configuration permits:
//
//   - If the nearest declared group at or above a path has members_from, the
//     directories that it names count there.
//   - Otherwise no directory counts if a declared group at or above the path
//     lists accounts, or a directory maps accounts to it.
//   - Otherwise one directory counts: the first that has the group. A directory
//     that cannot be asked which groups it has is taken to have all declared ones.

// Upwards returns the path of a group, followed by those of the groups above it.
func Upwards(group string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for path := group; path != "" && yield(path); path = path[:max(strings.LastIndexByte(path, '/'), 0)] {
		}
	}
}

// within reports whether a group is the other group or below it.
func within(group, other string) bool {
	rest, ok := strings.CutPrefix(group, other)
	return ok && (rest == "" || rest[0] == '/')
}

// permits reports whether the groups of a directory may count at a path.
func (p *Policy) permits(name, group string) bool {
	if nearest := p.nearest(group); nearest != nil && len(nearest.from) > 0 {
		return slices.Contains(nearest.from, name)
	}
	for path := range Upwards(group) {
		if g := p.groups[path]; g != nil && g.hasList {
			return false
		}
	}
	return true
}

// nearest returns the nearest declared group at or above a path, or nil.
func (p *Policy) nearest(group string) *groupPolicy {
	for path := range Upwards(group) {
		if g := p.groups[path]; g != nil {
			return g
		}
	}
	return nil
}

// holderOf returns the first directory that has a group, and the visibility
// there. The error is [fs.ErrNotExist] if no directory has it. If one cannot
// answer, those after it are not asked.
func (p *Policy) holderOf(ctx context.Context, group string) (holder string, visibility directory.Visibility, err error) {
	nearest := p.nearest(group)
	for _, d := range p.directories {
		groups, ok := d.Directory.(directory.GroupDirectory)
		naming := !ok && directory.NamesGroups(d.Directory) && nearest != nil && len(nearest.from) == 0
		if !ok && !naming || !p.permits(d.Name, group) {
			continue
		}
		if naming && p.groups[group] == nil {
			break // the nearest declared group belongs to d, which has none below it
		}
		if naming {
			return d.Name, "", nil
		}
		ctx, end := traces.StartDirectory(ctx, d.Name, "visibility")
		visibility, err = groups.VisibilityOf(ctx, group)
		end(outage(err))
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

// counts reports whether the roles that a directory gives in a group count.
func (p *Policy) counts(ctx context.Context, name, group string) (bool, error) {
	if !p.permits(name, group) {
		return false, nil
	}
	declared := p.groups[group]
	if declared != nil && len(declared.from) > 0 {
		return true, nil
	}
	holder, _, err := p.holderOf(ctx, group)
	if errors.Is(err, fs.ErrNotExist) {
		return declared != nil, nil
	}
	return holder == name, err
}

// Ignored returns the sorted paths of the declared groups in which the roles of
// a directory do not count, although the directory may have a group of that path.
func (p *Policy) Ignored(d Named) (groups []string) {
	if _, ok := d.Directory.(directory.GroupDirectory); !ok {
		return nil
	}
	for path := range p.groups {
		if !p.permits(d.Name, path) {
			groups = append(groups, path)
		}
	}
	slices.Sort(groups)
	return groups
}

// OpenDirectories returns the names of the directories whose groups can be
// public.
func (p *Policy) OpenDirectories() (names []string) {
	for _, d := range p.directories {
		if directory.GroupsMayBePublic(d.Directory) {
			names = append(names, d.Name)
		}
	}
	return names
}

// ShareOf returns the group whose share of the downloads a group uses: the
// nearest declared group at or above it, or else the first component of its
// path. So creating subgroups does not add to a share.
func (p *Policy) ShareOf(group string) string {
	top := group
	for path := range Upwards(group) {
		if p.groups[path] != nil {
			return path
		}
		top = path
	}
	return top
}
