package caddymodule

import (
	"cmp"
	"errors"
	"net/http"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/redirect"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
)

// repository is the repository of an upstream that a request is about.
type repository struct {
	upstream string     // the name of the upstream
	name     string     // the name of the repository at the upstream
	scope    string     // the scope of its links in the index
	ask      *peers.Ask // what other nodes are asked, without the content; nil without peers
	content  *pullthrough.Repository
	mirrors  *upstream.Mirrors
	busy     *rate.Sometimes // limits the log lines of tooBusy about the upstream
}

// repository returns the repository of a route. Its upstream is the one that the
// first component of the image names or else the one that ns names, which is the
// parameter of the mirror protocol. Without either, it is the first upstream. The
// client accepts the given types of manifests, and may force a question to upstream. The
// other nodes are asked first, unless one of them is the client.
func (h *Handler) repository(rt route, ns string, accept mediatype.Accept, forced bool) (repository, *apiError) {
	first, name, _ := strings.Cut(rt.image, "/")
	u := h.upstreams[first]
	if u == nil || name == "" {
		u, name = h.Upstreams[0], rt.image
		if ns != "" {
			// An image of the same name from another registry would be wrong.
			if u = cmp.Or(h.upstreams[ns], h.upstreams[reference.CanonicalRegistry(ns)]); u == nil {
				return repository{}, refuse(nameUnknown, "the registry %s is not an upstream of this proxy", ns)
			}
		}
	}
	name = reference.NormalizeRepository(u.Name, name)
	src := u.sourceFor(rt.group)
	scope := h.scopeOf(u.Name, rt.group, name)
	config := pullthrough.Config{
		Cache:       h.cache.blobs,
		Index:       h.cache.index,
		Quotas:      h.quotas,
		Lists:       h.cache.lists,
		Sizes:       h.cache.sizes,
		Questions:   &h.cache.questions,
		Absences:    h.absences,
		Flights:     &h.flights,
		Registry:    src.Mirrors,
		Replicas:    h.cache.replicas,
		Name:        name,
		Scope:       scope,
		Endpoint:    src.Endpoint,
		Group:       h.policy.ShareOf(rt.group),
		Accept:      accept,
		Forced:      forced,
		Connections: u.Connections,
		Downloads:   u.Downloads.limits(),
		Hooks:       h.pullHooks,
	}
	u.Policy.Apply(&config, u.Name, name, rt.tag)
	var ask *peers.Ask
	if h.cluster != nil {
		ask = &peers.Ask{Group: rt.group, Upstream: u.Name, Repository: name, Fingerprint: src.Endpoint + " " + src.Name}
		h.cluster.Use(&config, *ask, rt.peer)
	}
	return repository{
		ask:      ask,
		upstream: u.Name,
		name:     name,
		scope:    scope,
		mirrors:  src.Mirrors,
		busy:     &u.busy,
		content:  pullthrough.New(config),
	}, nil
}

// scopeOf returns the scope, in the index, of a repository of an upstream as a group
// sees it.
func (h *Handler) scopeOf(upstream, group, repository string) string {
	return group + "/_/" + h.upstreams[upstream].sourceFor(group).Name + "/" + repository
}

func (ex *exchange) serveManifest(repo *repository) *apiError {
	ctx := ex.r.Context()
	var m pullthrough.Manifest
	var err error
	if ex.route.tag != "" {
		m, err = repo.content.ManifestByTag(ctx, ex.route.tag, ex.wantsBody())
	} else {
		m, err = repo.content.ManifestByDigest(ctx, ex.route.digest, ex.wantsBody())
	}
	if err != nil {
		return ex.upstreamError(repo, err, manifestUnknown, tooManyRequests)
	}
	defer m.Content.Close()
	return ex.sendManifest(m)
}

// sendManifest sends a manifest from memory, or from its file as a blob is sent.
func (ex *exchange) sendManifest(m pullthrough.Manifest) *apiError {
	content := m.Content
	if content == nil {
		content = new(pullthrough.Content)
	}
	shared, done, refusal := ex.takeAnswer(m.Digest, content.Bytes)
	// Only the shared copy stays in memory while it is being sent.
	if content.Bytes = shared; refusal != nil {
		return refusal
	}
	defer done()
	if ex.notModified(ex.setContentHeaders([]string{m.MediaType}, m.Digest, m.Origin)) {
		return nil
	}
	ex.setLength(m.Size)
	switch ex.rec.Source = record.Cache; {
	case content.FromPeer:
		ex.rec.Source = record.Peer
	case content.FromReplica:
		ex.rec.Source = record.Replica
	case m.Status == pullthrough.Miss:
		ex.rec.Source = record.Upstream
	}
	if content.File == nil {
		ex.w.WriteHeader(http.StatusOK)
		_, _ = ex.w.Write(shared) // an error means that the client has left
		return nil
	}
	defer ex.widenChunks()()
	ex.w.WriteHeader(http.StatusOK)
	if _, err := content.File.WriteTo(ex.w); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

func (ex *exchange) serveBlob(repo *repository) *apiError {
	ctx, d := ex.r.Context(), ex.route.digest
	if !ex.wantsBody() {
		size, status, err := repo.content.StatBlob(ctx, d)
		if err != nil {
			return ex.upstreamError(repo, err, blobUnknown, unavailable)
		}
		ex.sendBlobHead(d, size, status)
		return nil
	}
	if ex.redirectBlob(repo) {
		return nil
	}
	r, status, err := repo.content.Blob(ctx, d)
	if err != nil {
		return ex.upstreamError(repo, err, blobUnknown, unavailable)
	}
	defer r.Close()
	if err := ex.sendBlob(d, r, status); err != nil {
		e := ex.upstreamError(repo, err, blobUnknown, unavailable)
		if e.problem == unavailable && !errors.Is(err, fill.ErrBusy) {
			e.problem = badGateway // upstream is there: it has sent a header
		}
		return e
	}
	return nil
}

// redirectBlob redirects the client to the object store, if the storage has a copy of the
// blob there and the client may have it without a question to upstream. It reports
// whether it did.
func (ex *exchange) redirectBlob(repo *repository) bool {
	source := ex.handler.cache.redirects
	if source == nil || ex.route.peer != "" || !redirect.Understood(ex.r) || partial(ex.r.Header) {
		return false
	}
	ctx, d := ex.r.Context(), ex.route.digest
	size, warm := repo.content.WarmBlob(ctx, d)
	if !warm {
		return false
	}
	target, err := source.SignedURL(ctx, d, size)
	if err != nil {
		return false
	}
	if !redirect.Safe(target, ex.origin.registry) {
		ex.handler.cache.unsafe.Do(func() {
			ex.handler.logger.Warn("pulls are not redirected to the bucket, because clients would send their login there: its host must not be that of the registry, nor below it",
				zap.String("bucket", target.Host), zap.String("registry", ex.origin.registry))
		})
		return false
	}
	ex.rec.Result, ex.rec.Source, ex.rec.Digest = record.Hit, record.Redirect, d
	redirect.Send(ex.w, d, target)
	ex.rec.Bytes = size
	return true
}
