package caddymodule

import (
	"context"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// repository is one repository of one upstream as one group sees it. Nothing
// is answered from the cache that this repository is not known to contain,
// whatever else the cache holds.
type repository struct {
	*vault
	quotas   *keptQuotas
	registry *upstream.Registry
	upstream string // its name
	name     string // at the upstream
	scope    string // of what the index knows about it
	endpoint string // that downloads come from, and whose fills it shares
	freshFor time.Duration
	// connections is how many ranges of a blob are fetched at once.
	connections int
	share       string // the group that its downloads count for
	limits      blobcache.SourceLimits
	busy        *rate.Sometimes
	flights     *flights
	logger      *zap.Logger
}

// flights joins requests that would ask upstream the same thing.
type flights struct{ singleflight.Group }

// metadataLimit bounds a question that several requests wait for together, so
// that none of them decides by leaving.
const metadataLimit = time.Minute

// repository finds the repository of a route that the caller may read. An
// image whose first component is an upstream's name is there, any other one at
// the upstream that the mirror protocol's ns parameter names, or at the first.
func (h *Handler) repository(rt route, ns string) (*repository, *apiError) {
	first, name, _ := strings.Cut(rt.image, "/")
	u := h.upstreams[first]
	if u == nil || name == "" {
		u, name = h.Upstreams[0], rt.image
		if ns != "" {
			// Another registry's image of the same name would be the wrong one.
			if u = h.upstreams[ns]; u == nil {
				return nil, refuse(nameUnknown, "the registry %s is not an upstream of this proxy", ns)
			}
		}
	}
	name = reference.NormalizeRepository(u.Name, name)
	from := u.sourceFor(rt.group)
	return &repository{
		vault:    h.vault,
		quotas:   h.quotas,
		registry: from.Registry,
		upstream: u.Name,
		name:     name,
		scope:    rt.group + "/_/" + from.name + "/" + name,
		endpoint: from.endpoint,
		freshFor: time.Duration(u.FreshFor),

		connections: u.Connections,
		share:       h.access.ShareOf(rt.group),
		limits:      u.Downloads.limits(),
		busy:        &u.busy,
		flights:     &h.flights,
		logger:      h.logger,
	}, nil
}

// once asks upstream on behalf of all who want the same thing of this
// repository at this time.
func once[T any](ctx context.Context, p *repository, what string, ask func(context.Context) (T, error)) (T, error) {
	result := p.flights.DoChan(p.scope+" "+what, func() (any, error) {
		ctx, cancel := memo.Background(ctx, metadataLimit)
		defer cancel()
		return ask(ctx)
	})
	select {
	case r := <-result:
		value, _ := r.Val.(T)
		return value, r.Err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// delivered records content that upstream has delivered, and that this repository
// has. A record that cannot be written fails no pull.
func (p *repository) delivered(ctx context.Context, d digest.Digest, link blobcache.Link) {
	if err := p.index.AddDelivery(ctx, p.scope, d, link); err != nil {
		p.logger.Warn("cannot record what a repository contains; pulls go on", zap.String("repository", p.scope), zap.Error(err))
	}
}

// used records that a client was told of a manifest, which it may have: what
// the manifest names is in use too. A pull by a client that has the image is
// nothing but the HEAD of a tag.
func (p *repository) used(d digest.Digest) {
	p.cache.Used(d)
	p.quotas.Used(p.scope, d, true)
}

func (p *repository) setRef(ctx context.Context, tag string, ref blobcache.Ref) {
	if err := p.index.SetRef(ctx, p.scope, tag, ref); err != nil {
		p.logger.Warn("cannot record what a tag stands for; pulls go on", zap.String("repository", p.scope), zap.Error(err))
	}
}
