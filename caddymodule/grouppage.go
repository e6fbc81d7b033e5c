package caddymodule

import (
	"bytes"
	"context"
	_ "embed"
	"html/template"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

const (
	// pageImages is how many images a group's page shows, the newest.
	pageImages = 100
	// pageRefs is how many are looked at to find those.
	pageRefs = 10_000
)

// groupPage is what maintainers see of a group, as a page or as JSON.
type groupPage struct {
	Group      string               `json:"group"`
	Visibility directory.Visibility `json:"visibility"`
	Registry   string               `json:"registry"`
	Prefix     string               `json:"prefix"` // of image names
	Upstreams  []string             `json:"upstreams"`
	// Limits are the allow and deny lines that hold in the group, its own and
	// those of the groups above it.
	Limits []string `json:"limits,omitempty"`
	// Usage is what is stored for the group and its subgroups, if it has been
	// measured yet.
	Usage  *admin.GroupUsage `json:"usage"`
	Images []groupImage      `json:"images"`
	More   bool              `json:"more,omitempty"` // images than are listed
}

// groupImage is a tag that has been pulled.
type groupImage struct {
	Name   string    `json:"name"` // to be pulled by
	Digest string    `json:"digest"`
	Since  time.Time `json:"since"` // when it began to stand for the digest
}

//go:embed group.html
var groupHTML string

var groupTemplate = template.Must(template.New("group").Funcs(template.FuncMap{
	"size": admin.FormatSize,
}).Parse(groupHTML))

// servePage shows a group to its maintainers.
func (ex *exchange) servePage() *apiError {
	page, err := ex.describeGroup(ex.r.Context())
	if err != nil {
		e := refuse(unavailable, "the group cannot be looked at now; try again")
		e.cause, e.retryAfter = err, retrySoon
		return e
	}
	// A browser asks for HTML by name, a script for anything.
	if !strings.Contains(strings.Join(ex.r.Header.Values("Accept"), ","), "text/html") {
		return ex.sendValue(http.StatusOK, page)
	}
	var body bytes.Buffer
	if err := groupTemplate.Execute(&body, page); err != nil {
		panic(err) // the template and its data are both of this package
	}
	h := ex.w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	ex.sendJSON(http.StatusOK, body.Bytes(), "text/html; charset=utf-8")
	return nil
}

func (ex *exchange) describeGroup(ctx context.Context) (*groupPage, error) {
	group := ex.route.group
	visibility, err := ex.h.access.VisibilityOf(ctx, group)
	if err != nil {
		return nil, err
	}
	page := &groupPage{
		Group: group, Visibility: visibility, Registry: ex.origin.registry,
		Prefix: ex.origin.registry + "/" + group + strings.TrimSuffix(infix, "/"),
	}
	if page.Visibility == "" {
		page.Visibility = directory.Private
	}
	for _, u := range ex.h.Upstreams {
		page.Upstreams = append(page.Upstreams, u.Name)
	}
	page.Limits = ex.h.limits.Lines(group)
	if total, ok := ex.h.quotas.Totals()[group]; ok {
		usage := ex.h.usageOf(group, total)
		page.Usage = &usage
	}
	page.Images, page.More, err = ex.imagesOf(ctx, group)
	return page, err
}

// imagesOf lists the tags that have been pulled through a group and those below
// it, the newest first, as far as they belong to what is configured now.
func (ex *exchange) imagesOf(ctx context.Context, group string) (images []groupImage, more bool, err error) {
	images = []groupImage{}
	seen := 0
	err = ex.h.cache.index.EachRef(ctx, group, func(n index.Named) error {
		if seen++; seen > pageRefs {
			more = true
			return fs.SkipAll
		}
		if name, ok := ex.pullName(n); ok {
			images = append(images, groupImage{Name: name, Digest: n.Digest.String(), Since: n.Since.UTC()})
		}
		return nil
	})
	slices.SortFunc(images, func(a, b groupImage) int { return b.Since.Compare(a.Since) })
	if len(images) > pageImages {
		images, more = images[:pageImages], true
	}
	return images, more, err
}

// pullName is the reverse of [Handler.repository]: what a client pulls to get
// what the index has under a name. It is false for what an upstream or a login
// had that is not configured any more.
func (ex *exchange) pullName(n index.Named) (string, bool) {
	group, rest, _ := strings.Cut(n.Scope, "/_/")
	from, repository, _ := strings.Cut(rest, "/")
	for i, u := range ex.h.Upstreams {
		if u.sourceFor(group).name != from {
			continue
		}
		if i > 0 {
			repository = u.Name + "/" + repository
		} else if u.Name == dockerHub {
			repository = strings.TrimPrefix(repository, "library/")
		}
		return group + infix + repository + ":" + n.Name, true
	}
	return "", false
}
