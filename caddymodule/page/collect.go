package page

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/usage"
)

const (
	// imagesOnPage is the number of images on a page of the list.
	imagesOnPage = 100

	// maxImages is the number of tags of a group that are listed at all.
	maxImages = 20_000

	// groupsOnPage is the number of groups on a page of the list. No more groups
	// that the configuration does not declare are asked about.
	groupsOnPage = 100

	// groupsLimit is how long a page waits for directories.
	groupsLimit = 5 * time.Second
)

// Images finds the images of a group.
type Images struct {
	Index    *index.Index
	Recorder *usage.Recorder

	// Name returns the name by which clients pull a ref, without the registry, and
	// reports whether they can.
	Name func(scope, ref string) (string, bool)

	// Size returns the size in bytes of what a scope has of an image.
	Size func(ctx context.Context, scope string, d digest.Digest) int64
}

// List adds a page of the list of a group's images, from 1, to m. The image that was
// pulled last comes first.
func (i Images) List(ctx context.Context, group string, number int, m *Managed) error {
	type candidate struct {
		index.RefName
		name string
	}
	var all []candidate
	err := i.Index.EachRef(ctx, group, func(ref index.RefName) error {
		name, ok := i.Name(ref.Scope, ref.Name)
		switch {
		case !ok:
			return nil
		case len(all) == maxImages:
			m.Cut = true
			return fs.SkipAll
		}
		if pulled := i.Recorder.LastPull(ref.Scope, ref.Name); pulled.After(ref.Used) {
			ref.Used = pulled
		}
		all = append(all, candidate{ref, name})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.name, b.name)) })
	m.Page, m.Pages = number, max(1, (len(all)+imagesOnPage-1)/imagesOnPage)
	m.Images, m.More = []Image{}, number < m.Pages
	from := min(number-1, m.Pages) * imagesOnPage
	for _, c := range all[min(from, len(all)):min(from+imagesOnPage, len(all))] {
		ref, err := i.Index.Ref(ctx, c.Scope, c.Name)
		if err != nil {
			continue // gone meanwhile, or damaged: as good as absent
		}
		m.Images = append(m.Images, Image{
			Name: c.name, Digest: ref.Digest.String(), Since: cmp.Or(ref.Since, c.Used).UTC(), Pulled: c.Used.UTC(),
			Size: i.Size(ctx, c.Scope, ref.Digest),
		})
	}
	return nil
}

// Groups finds the groups that an account may read.
type Groups struct {
	Policy *access.Policy

	// Declared are the paths of the groups of the configuration, and Known those of
	// other groups that exist or have existed.
	Declared, Known []string

	Sealer Sealer
}

// Sealer seals texts that clients return later and can neither read nor change. Open
// fails for a text that Seal has not returned for the same bound values; its other
// errors are distinguished by the caller.
type Sealer interface {
	Seal(ctx context.Context, text string, bound ...string) (string, error)
	Open(ctx context.Context, sealed string, bound ...string) (string, error)
}

// List adds a page of groups to s, for an account. These are the declared groups that
// the account may read, and the known ones in which a directory gives it a role. For an
// account that administers the site, they are all groups.
//
// The page begins after the position that next, the field of the page before, stands
// for. The position is sealed for the account: by choosing positions, clients could
// find out the paths of groups that they may not read from whether there is a next page.
// List returns the errors of the Sealer.
func (g Groups) List(ctx context.Context, who access.Caller, next string, s *Site) error {
	after, bound := "", []string{"groups", who.ID().String(), who.Token}
	if next != "" {
		var err error
		if after, err = g.Sealer.Open(ctx, next, bound...); err != nil {
			return err
		}
	}
	asking, cancel := context.WithTimeout(ctx, groupsLimit)
	defer cancel()
	last, more := g.list(asking, who, after, s)
	if !more {
		return nil
	}
	var err error
	s.Next, err = g.Sealer.Seal(ctx, last, bound...)
	return err
}

// list adds the groups whose paths come after a path. It returns the last path that it
// has looked at, and reports whether there may be more groups after it.
func (g Groups) list(ctx context.Context, who access.Caller, after string, s *Site) (last string, more bool) {
	declared := make(map[string]bool)
	for _, path := range g.Declared {
		declared[path] = true
	}
	all := maps.Clone(declared)
	for _, path := range g.Known {
		all[path] = true
	}
	s.Groups = []Entry{}
	asked := 0
	for _, path := range slices.Sorted(maps.Keys(all)) {
		if path <= after {
			continue
		}
		if !declared[path] {
			if asked == groupsOnPage {
				return last, true
			}
			asked++
		}
		entry, ok, err := g.entry(ctx, who, path, declared[path])
		s.Incomplete = s.Incomplete || err != nil
		if ok && len(s.Groups) == groupsOnPage {
			return last, true
		}
		if ok {
			s.Groups = append(s.Groups, entry)
		}
		last = path
	}
	return last, false
}

// entry describes a group, and reports whether the account may read it. An account
// that administers the site sees groups that do not exist any more, without a page.
func (g Groups) entry(ctx context.Context, who access.Caller, path string, declared bool) (e Entry, ok bool, err error) {
	e = Entry{Group: path, Page: "/" + path + "/dependency_proxy", Access: "admin"}
	admin := who.Administers()
	if !admin {
		v, err := g.Policy.Decide(ctx, who, path, directory.Member)
		if e.Access, ok = v.Rule, v.Allowed && (declared || v.Insider); err != nil || !ok {
			return e, false, err
		}
	}
	visibility, err := g.Policy.VisibilityOf(ctx, path)
	switch {
	case err == nil:
		e.Visibility = cmp.Or(visibility, directory.Private)
	case !admin:
		return e, false, err
	case errors.Is(err, fs.ErrNotExist):
		e.Page, e.Access = "", "unknown group"
	}
	return e, true, nil
}
