package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler turns a site into an authenticated pull-through cache for container
// images. It answers under /v2/ and /jwt/; everything else goes to the next
// handler. Images are pulled as
//
//	HOST/GROUP/dependency_proxy/containers/IMAGE
//
// by accounts that may read the group.
type Handler struct {
	// Name tells the site from others, so that an access token made for one is
	// no good at another. Sites of the same name share their access tokens, and
	// must have the same accounts and groups for that. Another name ends the
	// tokens of the old one.
	Name string `json:"name,omitempty"`

	// Storage is where cached content is kept; by default a folder in
	// Caddy's data directory.
	StorageRaw json.RawMessage `json:"storage,omitempty" caddy:"namespace=http.dependency_proxy.storage inline_key=type"`

	// Directories know the accounts. They are asked in order.
	DirectoriesRaw []json.RawMessage `json:"directories,omitempty" caddy:"namespace=http.dependency_proxy.directory inline_key=type"`

	// Groups are what images are pulled through.
	Groups []*Group `json:"groups,omitempty"`

	// Upstreams are the registries behind the proxy. An image whose first
	// component is an upstream's name is pulled from there, all others from
	// the first one. None means Docker Hub.
	Upstreams []*Upstream `json:"upstreams,omitempty"`

	// Token are the settings of the token service.
	Token Token `json:"token,omitzero"`

	// Realm is the URL of the token service as clients reach it, if that is
	// not /jwt/auth on the host that they ask.
	Realm string `json:"realm,omitempty"`

	// PrivateGroups is true by default. False is the kill switch: no group is
	// served but the public ones.
	PrivateGroups *bool `json:"private_groups,omitempty"`

	// Admins are accounts that may do everything on the site. Here and in
	// groups an account is listed as DIRECTORY:NAME. A bare name is that of one
	// of the users that a static directory lists, or, if there is just one
	// directory, one of its accounts. Names are compared as they are.
	Admins []string `json:"admins,omitempty"`

	// Blocked are accounts that do not get in, whatever a directory says. A bare
	// name blocks all accounts of that name, whichever directory they are of.
	// Neither case nor compatible forms of a character (NFKC) make a difference.
	Blocked []string `json:"blocked,omitempty"`

	lines      []accountLine // of a Caddyfile that is being read
	logger     *zap.Logger
	audit      *zap.Logger
	realm      *url.URL // Realm, if there is one
	who        string   // the accounts and groups, to compare sites by
	accounts   *access.Accounts
	gate       *access.Gate
	tokens     *access.Tokens
	registered *admin.Site
	access     *access.Policy
	upstreams  map[string]*Upstream
	issuer     *tokenissuer.Issuer
	cache      *sharedCache
	quotas     *blobcache.Quotas
	flights    pullthrough.Flights
	pullHooks  pullthrough.Hooks
	lease      pool.Lease

	limits       access.ImageLimits
	proxyWarning *sync.Once // of all sites of the configuration
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.dependency_proxy",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision makes the handler ready. What outlives a configuration is acquired
// last, so that a configuration that is refused has touched nothing.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	h.audit = h.logger.Named("audit")
	h.pullHooks = newPullHooks(h.logger)
	if err := h.check(); err != nil {
		return err
	}
	h.who = h.accessFingerprint()
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
	h.access = access.NewPolicy(accessGroups(h.Groups...), h.PrivateGroups == nil || *h.PrivateGroups, h.accounts.Directories())
	if h.limits, err = access.NewImageLimits(accessGroups(h.Groups...)); err != nil {
		return err
	}
	h.warnOfUnknownMembers()
	h.warnOfPublicLogins()
	h.logIgnoredMembers()
	if h.cache, err = openCache(&h.lease, storage); err != nil {
		return err
	}
	if h.quotas, err = openQuotas(&h.lease, storage, h.cache, h.Groups); err != nil {
		return err
	}
	if h.issuer, err = openIssuer(&h.lease, ctx.Storage(), h.Token); err != nil {
		return err
	}
	throttle, err := openThrottle(&h.lease, ctx.Storage())
	if err != nil {
		return err
	}
	h.gate = &access.Gate{Accounts: h.accounts, Throttle: throttle}
	h.tokens = &access.Tokens{Accounts: h.accounts, Policy: h.access, Logger: h.logger}
	store, err := openTokens(&h.lease, ctx.Storage())
	if err != nil {
		return err
	}
	h.accounts.UseTokens(store)
	if err := h.openRegistries(); err != nil {
		return err
	}
	key := fmt.Sprintf("%p", ctx.Done()) // all sites of the configuration
	if h.proxyWarning, err = proxyWarnings.Acquire(&h.lease, key, func() (*sync.Once, error) { return new(sync.Once), nil }); err != nil {
		return err
	}
	h.registered = h.site(ctx)
	if admin.Register(h.registered) {
		h.logger.Warn("access tokens are off", zap.String("name", h.Name), zap.Error(access.ErrAmbiguous))
	}
	go h.tokens.LogEnded(ctx) // which may take its time, and ends with the configuration
	return nil
}

// Cleanup gives up what the handler holds. Requests that it still serves go on.
func (h *Handler) Cleanup() error {
	admin.Unregister(h.registered)
	h.lease.Release()
	return nil
}

func (h *Handler) provisionDirectories(ctx caddy.Context) error {
	h.accounts = access.NewAccounts(access.Config{
		Site: h.Name, Admins: h.Admins, Blocked: h.Blocked, Groups: accessGroups(h.Groups...), Logger: h.logger,
	})
	if h.DirectoriesRaw == nil {
		return nil
	}
	names, err := access.ListDirectories(h.DirectoriesRaw) // which loading takes away
	if err != nil {
		return err
	}
	mods, err := ctx.LoadModule(h, "DirectoriesRaw")
	if err != nil {
		return err
	}
	for i, mod := range mods.([]any) {
		h.accounts.Add(names[i].Name, mod.(directory.Directory))
	}
	return nil
}

func (h *Handler) loadStorage(ctx caddy.Context) (storage.Storage, error) {
	if h.StorageRaw == nil {
		h.StorageRaw = json.RawMessage(`{"type":"filesystem"}`)
	}
	mod, err := ctx.LoadModule(h, "StorageRaw")
	if err != nil {
		return nil, err
	}
	return mod.(storage.Storage), nil
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	rt, err := parseRoute(r.URL.EscapedPath())
	if err == nil && rt.kind == notOurs {
		return next.ServeHTTP(w, r)
	}
	// A push is refused as one before anything is found wrong with its path.
	if refusal := checkMethod(rt, r.Method); refusal != nil {
		err = refusal
	}
	ex := &exchange{h: h, w: w, r: r, route: rt}
	ex.warnOfProxy()
	serve := ex.serveRegistry
	switch {
	case rt.kind == authKind || rt.kind == keysKind:
		serve = ex.serveTokens
	case rt.aboutGroup():
		serve = ex.serveGroup
	default:
		w.Header()["Docker-Distribution-Api-Version"] = apiVersion
	}
	if err == nil {
		err = serve()
	}
	if err != nil {
		ex.refuse(err)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

// accessFingerprint is equal for two sites at which an access token means the same.
// It is called before the guests are loaded, which clears their configuration.
func (h *Handler) accessFingerprint() string {
	text, err := json.Marshal([]any{h.DirectoriesRaw, h.Groups, h.Admins, h.Blocked, h.PrivateGroups})
	if err != nil {
		panic(err) // it was JSON a moment ago
	}
	return string(text)
}
