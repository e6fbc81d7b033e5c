package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/audit"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/events"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/freshness"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/health"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler makes a site an authenticated pull-through cache for container images.
// Accounts that may read a group pull images as
//
//	HOST/GROUP/dependency_proxy/containers/IMAGE
//
// The handler answers requests below /v2/ and /jwt/, and those for the pages of
// groups. It passes all others to the next handler.
type Handler struct {
	// Name identifies the site: an access token is valid only at sites with the
	// name that it was created for. Sites with the same name share their access
	// tokens and must have the same accounts and groups. Renaming a site ends
	// its tokens. A name has at most 255 printable ASCII characters and no
	// spaces. The default is the empty name.
	Name string `json:"name,omitempty"`

	// Storage keeps the cached content. The default is the module filesystem
	// with a folder in Caddy's data directory.
	StorageRaw json.RawMessage `json:"storage,omitempty" caddy:"namespace=http.dependency_proxy.storage inline_key=type"`

	// Directories authenticate accounts. They are asked in order. Without any,
	// only access tokens and public groups give access.
	DirectoriesRaw []json.RawMessage `json:"directories,omitempty" caddy:"namespace=http.dependency_proxy.directory inline_key=type"`

	// Groups are the namespaces that images are pulled through. At least one is
	// required, unless a directory other than static has groups of its own.
	Groups []*Group `json:"groups,omitempty"`

	// Upstreams are the registries that images are pulled from. An image whose
	// first component is the name of an upstream is pulled from that upstream,
	// any other image from the first one. The default is Docker Hub.
	Upstreams []*Upstream `json:"upstreams,omitempty"`

	// Offline makes all upstreams offline, see [Upstream]. The default is false.
	Offline bool `json:"offline,omitempty"`

	// Token configures the token service.
	Token Token `json:"token,omitzero"`

	// Realm is the absolute URL of the token service as clients reach it. The
	// default is /jwt/auth on the host that the client sends its request to.
	Realm string `json:"realm,omitempty"`

	// PrivateGroups can be set to false to serve public groups only. The default
	// is true.
	PrivateGroups *bool `json:"private_groups,omitempty"`

	// Metrics configures the metrics of the site, which are in the registry of
	// Caddy.
	Metrics metrics.Config `json:"metrics,omitzero"`

	// Peers configures the other nodes of the site. By default there are none.
	Peers *peers.Config `json:"peers,omitempty"`

	// Admins are accounts that may do everything on the site. Here and in groups
	// an account is written as DIRECTORY:NAME. A bare name means a user that a
	// static directory lists or, if the site has a single directory, an account
	// of that directory. Names are compared exactly.
	Admins []string `json:"admins,omitempty"`

	// Blocked are accounts that are denied access, whatever their directory
	// says. A bare name blocks the accounts of that name in all directories.
	// Names are compared without regard to case and to compatible forms of
	// characters (NFKC).
	Blocked []string `json:"blocked,omitempty"`

	lines      []accountLine // of the Caddyfile that is being parsed
	logger     *zap.Logger
	audit      *zap.Logger
	pulls      *audit.Pulls
	realm      *url.URL // the parsed Realm, nil if it is empty
	identity   string   // see accessFingerprint
	accounts   *access.Accounts
	gate       *access.Gate
	tokens     *access.Tokens
	registered *admin.Site
	policy     *access.Policy
	upstreams  map[string]*Upstream
	issuer     *tokenissuer.Issuer
	cache      *sharedCache
	cluster    *peers.Cluster // nil without Peers
	quotas     *blobcache.Quotas
	flights    pullthrough.Flights
	absences   *pullthrough.Absences
	pullHooks  pullthrough.Hooks
	lease      pool.Lease
	events     *events.Emitter

	health       *health.Site
	limits       access.ImageLimits
	proxyWarning *sync.Once // shared by the sites of the configuration

	metered   *metrics.Site     // nil until Provision has succeeded
	consumers []record.Consumer // of the records of requests; set by Provision
	undeclare []func()          // for Cleanup; see [usage.Recorder.Declare]
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.dependency_proxy",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision implements [caddy.Provisioner]. It acquires shared values last, so
// that a configuration that is rejected for another reason does not touch them.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = admin.Remember(ctx.Logger())
	h.audit = ctx.Logger().Named("audit")
	h.pulls = audit.NewPulls(h.audit.Named("pull"))
	h.consumers = append(h.consumers, h.pulls.Record)
	if err := errors.Join(metrics.Register(ctx.GetMetricsRegistry()), h.check()); err != nil {
		return err
	}
	h.identity = h.accessFingerprint()
	if h.Realm != "" {
		var err error
		if h.realm, err = url.Parse(h.Realm); err != nil {
			return err
		}
	}
	if err := h.provisionDirectories(ctx); err != nil {
		return err
	}
	storage, err := h.loadStorage(ctx)
	if err != nil {
		return err
	}
	if err := h.provisionUpstreams(ctx); err != nil {
		return err
	}
	if err := h.Peers.Provision(ctx); err != nil {
		return err
	}
	h.policy = access.NewPolicy(accessGroups(h.Groups...), h.PrivateGroups == nil || *h.PrivateGroups, h.accounts.Directories())
	if h.limits, err = access.NewImageLimits(accessGroups(h.Groups...)); err != nil {
		return err
	}
	h.warnUnknownMembers()
	h.warnPublicLogins()
	h.logIgnoredMembers()
	hasQuota := func(group string) bool {
		return slices.ContainsFunc(h.Groups, func(g *Group) bool { return g.Path == group && g.Quota > 0 })
	}
	if h.events, err = events.New(ctx, events.Config{Site: h.Name, HasQuota: hasQuota}); err != nil {
		return err
	}
	if err := h.openShared(ctx, storage); err != nil {
		return err
	}
	h.consumers = append(h.consumers, h.cache.missing.Record)
	h.countUsage()
	h.health = health.New(h.cache.name, h.cache.blobs.Reach, h.accounts.Directories())
	h.openMetrics()
	h.registered = h.site(ctx)
	if admin.Register(h.registered) {
		h.logger.Warn("access tokens are off", zap.String("name", h.Name), zap.Error(access.ErrAmbiguous))
	}
	go h.tokens.LogEnded(ctx) // it may ask directories, and ends with the configuration
	return nil
}

// openShared acquires the values that outlive the configuration.
func (h *Handler) openShared(ctx caddy.Context, module storage.Storage) (err error) {
	if h.issuer, err = openIssuer(&h.lease, ctx.Storage(), h.Token); err != nil {
		return err
	}
	if keyed, ok := module.(storage.Keyed); ok {
		keyed.UseKeys(fmt.Sprint(ctx.Storage()), h.issuer.Derived("bucket"))
	}
	if h.cache, err = openCache(&h.lease, module); err != nil {
		return err
	}
	nodes := peers.Site{Name: h.Name, Keys: fmt.Sprint(ctx.Storage()), Cache: module.Identity(), Issuer: h.issuer, Logger: processLogger}
	if h.cluster, err = h.Peers.Open(&h.lease, nodes); err != nil {
		return err
	}
	source := events.StorageSource(module.Identity())
	h.events.Subscribe(source, nil)
	h.pullHooks = freshness.LogHooks(h.logger)
	h.pullHooks.Moved = events.MovedHook(source, h.Name)
	if h.quotas, err = openQuotas(&h.lease, module, h.cache, h.Groups); err != nil {
		return err
	}
	throttle, err := openThrottle(&h.lease, ctx.Storage())
	if err != nil {
		return err
	}
	h.gate = &access.Gate{Accounts: h.accounts, Throttle: throttle}
	source = events.TokenSource(fmt.Sprint(ctx.Storage()))
	h.events.Subscribe(source, nil)
	h.tokens = &access.Tokens{
		Accounts: h.accounts, Policy: h.policy, Logger: h.logger,
		Made: events.TokenHook(source, events.TokenMade), Revoked: events.TokenHook(source, events.TokenRevoked),
	}
	store, err := openTokens(&h.lease, ctx.Storage())
	if err != nil {
		return err
	}
	h.accounts.UseTokens(store)
	if err := h.openRegistries(); err != nil {
		return err
	}
	h.absences = absences.Own()
	key := fmt.Sprintf("%p", ctx.Done()) // identifies the configuration
	h.proxyWarning, err = proxyWarnings.Acquire(&h.lease, key, func() (*sync.Once, error) { return new(sync.Once), nil })
	return err
}

// Cleanup implements [caddy.CleanerUpper]. Requests in progress may still use the
// shared values that it releases.
func (h *Handler) Cleanup() error {
	admin.Unregister(h.registered)
	h.metered.Close()
	h.events.Close()
	h.pulls.Close()
	for _, undeclare := range h.undeclare {
		undeclare()
	}
	h.lease.Release()
	return nil
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	rt, err := parseRoute(r.URL.EscapedPath())
	if err == nil && rt.kind == notOurs {
		return next.ServeHTTP(w, r)
	}
	// A push is rejected as such, even if its path is invalid too.
	if refusal := checkMethod(rt, r.Method); refusal != nil {
		err = refusal
	}
	ex := h.begin(w, r, rt)
	aborted := true
	defer func() { ex.end(aborted) }()
	ex.warnTrustedProxy()
	serve := ex.serveRegistry
	switch {
	case rt.kind == authKind || rt.kind == keysKind:
		serve = ex.serveTokens
	case rt.isPage():
		serve = ex.serveGroup
	case rt.kind == healthKind:
		serve = ex.serveHealth
	case rt.kind == peerKind:
		serve = ex.servePeer
	default:
		w.Header()["Docker-Distribution-Api-Version"] = apiVersion
	}
	if err == nil {
		err = serve()
	}
	if err != nil {
		ex.sendError(err)
	}
	aborted = false
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
