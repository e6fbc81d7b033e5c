package caddymodule

import (
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
)

// site returns the site that the handler registers with the admin API.
func (h *Handler) site(ctx caddy.Context) *admin.Site {
	return &admin.Site{
		Name: h.Name, Configuration: ctx.Done(), Identity: h.identity, Tokens: h.tokens, Explain: h.explain,
		Storage: h.cache, Status: h.cacheStatus, Scrub: h.cache.scrubs.Start,
	}
}

// cacheStatus returns the state of the storage for the admin API.
func (h *Handler) cacheStatus() admin.CacheStatus {
	status := admin.CacheStatus{Storage: h.cache.name, Groups: make(map[string]admin.GroupUsage), Fills: []admin.FillStatus{}, Scrub: h.cache.scrubs.State()}
	for group, total := range h.quotas.Totals() {
		status.Groups[group] = h.usageOf(group, total)
	}
	for _, f := range h.cache.blobs.Fills() {
		status.Fills = append(status.Fills, admin.FillStatus{
			Digest: f.Digest.String(), Size: f.Size, Written: f.Written, Readers: f.Readers, Since: f.Since.UTC(),
		})
	}
	return status
}

// usageOf adds the quota of a group, if it has one, to what is measured for it.
func (h *Handler) usageOf(group string, total blobcache.Total) admin.GroupUsage {
	usage := admin.GroupUsage{Bytes: total.Bytes, Blobs: total.Blobs, Measured: total.Measured.UTC()}
	if i := slices.IndexFunc(h.Groups, func(g *Group) bool { return g.Path == group }); i >= 0 {
		usage.Quota = h.Groups[i].Quota
	}
	return usage
}
