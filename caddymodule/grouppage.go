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
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
)

const (
	// pageImages is the number of images on the page of a group.
	pageImages = 100
	// pageRefs is the number of tags among which the newest images are found.
	pageRefs = 10_000
)

// groupPage is the page of a group, as HTML or as JSON.
type groupPage struct {
	Group      string               `json:"group"`
	Visibility directory.Visibility `json:"visibility"`
	Registry   string               `json:"registry"`
	Prefix     string               `json:"prefix"` // of image names
	Upstreams  []string             `json:"upstreams"`
	// Limits are the allow and deny lines of the group and of the groups above
	// it.
	Limits []string `json:"limits,omitempty"`
	// Usage is the storage that the group and its subgroups use, as last
	// measured. It is nil before the first measurement.
	Usage  *admin.GroupUsage `json:"usage"`
	Images []groupImage      `json:"images"`         // the newest
	More   bool              `json:"more,omitempty"` // whether the group has more images
}

// groupImage is a tag that has been pulled.
type groupImage struct {
	Name   string    `json:"name"` // after the name of the registry
	Digest string    `json:"digest"`
	Since  time.Time `json:"since"` // since when the tag has the digest
}

//go:embed group.html
var groupHTML string

var groupTemplate = template.Must(template.New("group").Funcs(template.FuncMap{
	"size": admin.FormatSize,
}).Parse(groupHTML))

// servePage sends the page of a group.
func (ex *exchange) servePage() *apiError {
	page, err := ex.describeGroup(ex.r.Context())
	if err != nil {
		e := refuse(unavailable, "the page of the group is temporarily unavailable; try again later")
		e.cause, e.retryAfter = err, retrySoon
		return e
	}
	// Browsers accept HTML by name, scripts any type.
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
	ex.send(http.StatusOK, "text/html; charset=utf-8", body.Bytes())
	return nil
}

// describeGroup returns the page of the group.
func (ex *exchange) describeGroup(ctx context.Context) (*groupPage, error) {
	group := ex.route.group
	visibility, err := ex.handler.policy.VisibilityOf(ctx, group)
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
	for _, u := range ex.handler.Upstreams {
		page.Upstreams = append(page.Upstreams, u.Name)
	}
	page.Limits = ex.handler.limits.Lines(group)
	if total, ok := ex.handler.quotas.Totals()[group]; ok {
		usage := ex.handler.usageOf(group, total)
		page.Usage = &usage
	}
	page.Images, page.More, err = ex.imagesOf(ctx, group)
	return page, err
}

// imagesOf returns the tags that have been pulled through a group and its subgroups
// from the upstreams that are configured now, the newest first.
func (ex *exchange) imagesOf(ctx context.Context, group string) (images []groupImage, more bool, err error) {
	images = []groupImage{}
	seen := 0
	err = ex.handler.cache.index.EachRef(ctx, group, func(n index.Named) error {
		if seen++; seen > pageRefs {
			more = true
			return fs.SkipAll
		}
		if name, ok := ex.pullName(n); ok && pullthrough.IsTag(n.Name) {
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

// pullName returns the name by which clients pull a tag of the index; it is the
// reverse of [Handler.repository]. It reports false if the upstream or the login
// that the tag was pulled with is not configured any more.
func (ex *exchange) pullName(n index.Named) (string, bool) {
	group, rest, _ := strings.Cut(n.Scope, "/_/")
	src, repository, _ := strings.Cut(rest, "/")
	for i, u := range ex.handler.Upstreams {
		if u.sourceFor(group).name != src {
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
