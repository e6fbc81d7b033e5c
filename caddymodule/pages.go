package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/health"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/page"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/usage"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// chartDays is the number of days that the charts of pages show.
const chartDays = 30

// countUsage makes the site count what its groups pull, for their pages.
func (h *Handler) countUsage() {
	for _, g := range h.Groups {
		h.undeclare = append(h.undeclare, h.cache.usage.Declare(g.Path))
	}
	h.pullHooks.Fetched = h.cache.usage.Fetched
	h.consumers = append(h.consumers, h.cache.usage.Record)
}

// servePage sends the page of the site or of a group, as HTML to browsers and
// otherwise as JSON.
func (ex *exchange) servePage() *apiError {
	describe := ex.describeGroup
	if ex.route.kind == sitePageKind {
		describe = ex.describeSite
	}
	ctx := directory.WithAsker(ex.r.Context(), ex.caller.Asker(ex.rec.Address))
	view, err := describe(ctx)
	if refusal, ok := err.(*apiError); ok {
		return refusal
	}
	if err != nil {
		e := refuse(unavailable, "the page is temporarily unavailable; try again later")
		e.cause, e.retryAfter = err, retrySoon
		return e
	}
	ex.w.Header().Set("Vary", "Accept")
	if !page.WantsHTML(ex.r) {
		return ex.sendValue(http.StatusOK, view)
	}
	body, err := page.HTML(view)
	if err != nil {
		panic(err) // the template and its data are both of package page
	}
	page.SetHeaders(ex.w.Header())
	ex.send(http.StatusOK, "text/html; charset=utf-8", body)
	return nil
}

// describeSite returns the page of the site for the caller.
func (ex *exchange) describeSite(ctx context.Context) (page.View, error) {
	h, totals := ex.handler, ex.handler.quotas.Totals()
	s := &page.Site{Registry: ex.origin.registry, Account: ex.caller.ID().String(), Now: time.Now()}
	groups := page.Groups{Policy: h.policy, Sealer: h.issuer, Known: slices.Concat(slices.Collect(maps.Keys(totals)), slices.Collect(maps.Keys(ex.caller.Roles)))}
	for _, g := range h.Groups {
		groups.Declared = append(groups.Declared, g.Path)
	}
	if err := groups.List(ctx, ex.caller, ex.r.URL.Query().Get("after"), s); errors.Is(err, tokenissuer.ErrInvalidToken) {
		return nil, refuse(badRequest, "the parameter after is not valid, or not any more; begin with the first page")
	} else if err != nil {
		return nil, err
	}
	if !ex.caller.Administers() {
		return s, nil
	}
	for i, entry := range s.Groups {
		if total, ok := totals[entry.Group]; ok {
			used := h.usageOf(entry.Group, total)
			s.Groups[i].Usage = &used
		}
	}
	cache := h.cacheStatus()
	s.SiteManaged = &page.SiteManaged{
		Stored: page.Stored{Bytes: cache.Bytes, Blobs: cache.Blobs, Limit: cache.Limit}, Fills: cache.Fills,
		Health: h.health.Report(ctx, false), Days: h.cache.usage.Days(ctx, usage.All, chartDays),
		Peers: h.cluster.State(),
	}
	for _, u := range h.Upstreams {
		for _, group := range slices.Sorted(maps.Keys(u.sources)) {
			for _, state := range u.sources[group].States() {
				s.Upstreams = append(s.Upstreams, health.NewUpstream(cmp.Or(group, "common"), state, s.Now))
			}
		}
	}
	return s, nil
}

// describeGroup returns the page of the group for the caller, who may pull from it.
func (ex *exchange) describeGroup(ctx context.Context) (page.View, error) {
	h, group := ex.handler, ex.route.group
	visibility, err := h.policy.VisibilityOf(ctx, group)
	if err != nil {
		return nil, err
	}
	v, err := h.policy.Decide(ctx, ex.caller, group, directory.Maintainer)
	if err != nil {
		return nil, err
	}
	manages := v.Allowed
	if !manages {
		if v, err = h.policy.Decide(ctx, ex.caller, group, directory.Member); err != nil {
			return nil, err
		}
	}
	g := &page.Group{
		Group: group, Visibility: cmp.Or(visibility, directory.Private), Registry: ex.origin.registry, Scheme: ex.origin.scheme,
		Prefix: ex.origin.registry + "/" + group + strings.TrimSuffix(infix, "/"),
		Access: v.Rule, Now: time.Now(),
		DefaultUpstream: h.Upstreams[0].Name, Limits: h.limits.Lines(group), Example: "IMAGE:TAG",
	}
	if !ex.caller.Anonymous {
		g.Account = ex.caller.ID().String()
	}
	for _, u := range h.Upstreams {
		if h.limits.MayReach(group, u.Name) {
			g.Upstreams = append(g.Upstreams, u.Name)
		}
	}
	if example := access.NewImage(dockerHub, "library/alpine", "latest"); g.DefaultUpstream == dockerHub && h.limits.Decide(group, example).Allowed {
		g.Example = "alpine:latest"
	}
	if manages {
		g.Managed, err = ex.describeManaged(ctx, group)
	}
	return g, err
}

// describeManaged returns what maintainers see of a group.
func (ex *exchange) describeManaged(ctx context.Context, group string) (*page.Managed, error) {
	c, number := ex.handler.cache, 1
	if text := ex.r.URL.Query().Get("page"); text != "" {
		var err error
		if number, err = strconv.Atoi(text); err != nil || number < 1 {
			return nil, refuse(badRequest, "the parameter page must be a number from 1")
		}
	}
	m := &page.Managed{Days: c.usage.Days(ctx, group, chartDays)}
	if total, ok := ex.handler.quotas.Totals()[group]; ok {
		used := ex.handler.usageOf(group, total)
		m.Usage = &used
	}
	images := page.Images{Index: c.index, Recorder: c.usage, Name: ex.handler.pullName, Size: func(ctx context.Context, scope string, d digest.Digest) int64 {
		return pullthrough.StoredSize(ctx, c.blobs, c.index, scope, d)
	}}
	return m, images.List(ctx, group, number, m)
}

// pullName returns the name by which clients pull a tag of the index; it is the
// reverse of [Handler.repository]. It reports false if the ref is not a tag, or if the
// upstream or the login that it was pulled with is not configured any more.
func (h *Handler) pullName(scope, tag string) (string, bool) {
	group, rest, _ := strings.Cut(scope, "/_/")
	src, repository, _ := strings.Cut(rest, "/")
	for i, u := range h.Upstreams {
		if u.sourceFor(group).Name != src || !pullthrough.IsTag(tag) {
			continue
		}
		if i > 0 {
			repository = u.Name + "/" + repository
		} else if u.Name == dockerHub {
			repository = strings.TrimPrefix(repository, "library/")
		}
		return group + infix + repository + ":" + tag, true
	}
	return "", false
}
