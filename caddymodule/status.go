package caddymodule

import (
	"context"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/freshness"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/health"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
)

// site returns the site that the handler registers with the admin API.
func (h *Handler) site(ctx caddy.Context) *admin.Site {
	return &admin.Site{
		Name: h.Name, Configuration: ctx.Done(), Identity: h.identity, Tokens: h.tokens, Explain: h.explain, Warm: h.warm,
		Storage: h.cache, Status: h.cacheStatus, Scrub: h.cache.scrubs.Start, Upstreams: h.metered.Upstreams, Health: h.health, Peers: h.cluster.State,
		Missing: h.cache.missing.List,
	}
}

// openMetrics shows the metrics of the site, and counts its requests.
func (h *Handler) openMetrics() {
	m := &metrics.Site{
		Config: h.Metrics, Name: h.Name, DirectoriesUp: h.health.DirectoriesUp,
		Cache: h.cache.blobs, StorageName: h.cache.name, Quotas: make(map[string]int64), Totals: h.quotas.Totals, Peers: h.cluster.State,
		Remote: h.cache.remote,
	}
	for _, g := range h.Groups {
		m.Groups = append(m.Groups, g.Path)
		if g.Quota > 0 {
			m.Quotas[g.Path] = g.Quota
		}
	}
	for _, u := range h.Upstreams {
		logins := make(map[string]*upstream.Mirrors, len(u.sources))
		for group, src := range u.sources {
			logins[group] = src.Mirrors
		}
		m.Upstreams = append(m.Upstreams, metrics.Upstream{Name: u.Name, Logins: logins})
	}
	for _, d := range h.accounts.Directories() {
		m.Directories = append(m.Directories, d.Name)
	}
	m.Open()
	h.metered, h.consumers = m, append(h.consumers, m.Record)
}

// serveHealth says whether the site can do its work. With the parameter ready, the
// status code says so too; without it, an answer means that the process is alive. Only
// admins see more than the status. While their login cannot be checked, they see the
// status too.
func (ex *exchange) serveHealth() *apiError {
	ex.w.Header().Set("Cache-Control", "no-store")
	if ex.r.Header.Get("Authorization") != "" {
		err := ex.locate()
		if err == nil {
			err = ex.identify()
		}
		if err != nil && err.problem == unauthorized {
			ex.basicChallenge()
		}
		if err != nil && err.problem != unavailable {
			return err
		}
	}
	var stopping any
	if repl, ok := ex.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		stopping, _ = repl.Get("http.shutting_down")
	}
	report := ex.handler.health.Report(ex.r.Context(), stopping == true)
	status := http.StatusOK
	if report.Status != health.OK && ex.r.URL.Query().Has("ready") {
		status = http.StatusServiceUnavailable
	}
	if !ex.caller.Administers() {
		report = health.Report{Status: report.Status}
	}
	return ex.sendValue(status, report)
}

// servePeer answers the requests of other nodes. It answers as to a client that may pull
// from the group: that is what the token says. The limits of the group here hold, too,
// before anything is sent upstream. A node that asks for what this one does not provide, for
// whatever reason, goes on without it.
func (ex *exchange) servePeer() *apiError {
	cluster := ex.handler.cluster
	switch {
	case cluster == nil:
		return refuse(nameUnknown, "there is nothing at this path; it is for the nodes of a site with peers")
	case ex.r.URL.EscapedPath() == peers.ProbePath:
		cluster.ServeProbe(ex.w)
		return nil
	}
	ex.rec.Kind = record.PeerManifest
	ask, done, err := cluster.Admit(ex.r)
	if err != nil {
		if reason, logged := cluster.Refusal(err); logged {
			ex.auditor().record(zap.WarnLevel, auditLine{event: auditPeerRefused, reason: reason})
		}
		status := peers.StatusOf(err)
		return refuse(problem{"DENIED", status, record.Denied}, "%s", http.StatusText(status))
	}
	defer done()
	ex.route = route{kind: manifestKind, group: ask.Group, image: ask.Upstream + "/" + ask.Repository, peer: ask.From}
	if ask.Kind == peers.Blob {
		ex.rec.Kind, ex.route.kind = record.PeerBlob, blobKind
	}
	ex.rec.Group, ex.rec.Image = ask.Group, ex.route.image
	refusal := ex.route.parseReference(ask.Reference)
	var repo repository
	if refusal == nil {
		repo, refusal = ex.handler.repository(ex.route, "", mediatype.ParseAccept(ex.r.Header.Values("Accept")), freshness.WantsRefresh(ex.r.Header))
	}
	if refusal == nil {
		ex.rec.Upstream, ex.rec.Repository, ex.rec.Scope, ex.rec.Tag, ex.rec.Digest = repo.upstream, repo.name, repo.scope, ex.route.tag, ex.route.digest
		if !ask.IsOf(*repo.ask) {
			return refuse(problem{"UNSUPPORTED", http.StatusConflict, record.Error}, "the settings of the upstream differ")
		}
		ex.handler.cache.index.NotePurge(repo.scope, ask.Purged)
		if refusal = ex.checkLimits(&repo); refusal == nil {
			refusal = ex.serveContent(&repo)
		}
	}
	if refusal != nil {
		refusal.status, refusal.message, refusal.retryAfter = http.StatusNotFound, "this node does not provide it", 0
	}
	return refusal
}

// cacheStatus returns the state of the storage for the admin API.
func (h *Handler) cacheStatus() admin.CacheStatus {
	usage := h.cache.blobs.Usage(context.Background())
	status := admin.CacheStatus{
		Storage: h.cache.name, Bytes: usage.Bytes, Blobs: usage.Blobs, Limit: usage.Limit,
		Groups: make(map[string]admin.GroupUsage), Fills: []admin.FillStatus{}, Scrub: h.cache.scrubs.State(),
	}
	if h.cache.remote != nil {
		remote := h.cache.remote.RemoteStatus()
		status.Remote = &remote
	}
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
