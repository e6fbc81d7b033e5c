package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
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

	logger      *zap.Logger
	access      *access
	directories directories
	upstreams   map[string]*Upstream
	issuer      *tokenissuer.Issuer
	*vault
	flights flights
	lease   lease
}

// Group is a namespace of images with its own readers.
type Group struct {
	// Path is one or more components separated by slashes: acme, or
	// acme/platform, which is a subgroup of acme.
	Path string `json:"path"`

	// Visibility is private (the default), internal or public.
	Visibility Visibility `json:"visibility,omitempty"`

	// Members may pull from the group and from its subgroups.
	Members []string `json:"members,omitempty"`

	// Upstreams are logins that the group and its subgroups use at an
	// upstream instead of the common one.
	Upstreams []*GroupUpstream `json:"upstreams,omitempty"`
}

// Token are the settings of the token service.
type Token struct {
	// Lifetime is how long a token is good for: 15m by default, at least 1m,
	// since clients rely on a minute.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// Rotate is the age at which a signing key is replaced: 30d by default.
	Rotate caddy.Duration `json:"rotate,omitempty"`

	// RefreshTokens lets `docker login` store a refresh token, good for 30
	// days, instead of the password. Some clients can then do nothing else.
	RefreshTokens bool `json:"refresh_tokens,omitempty"`
}

const (
	defaultLifetime = 15 * time.Minute
	defaultRotate   = 30 * 24 * time.Hour
	refreshLifetime = 30 * 24 * time.Hour
)

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
	if err := h.provisionToken(); err != nil {
		return err
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
	if err := h.provisionGroups(); err != nil {
		return err
	}
	if h.vault, err = h.lease.vault(storage); err != nil {
		return err
	}
	if h.issuer, err = h.lease.issuer(ctx.Storage(), h.Token); err != nil {
		return err
	}
	return h.openRegistries()
}

// Cleanup gives up what the handler holds. Requests that it still serves go on.
func (h *Handler) Cleanup() error {
	h.lease.release()
	return nil
}

func (h *Handler) provisionToken() error {
	if h.Token.Lifetime == 0 {
		h.Token.Lifetime = caddy.Duration(defaultLifetime)
	}
	if h.Token.Rotate == 0 {
		h.Token.Rotate = caddy.Duration(defaultRotate)
	}
	if lifetime := time.Duration(h.Token.Lifetime); lifetime < tokenissuer.MinLifetime || lifetime > refreshLifetime {
		return fmt.Errorf("token lifetime %v: write a duration from %v to %v", lifetime, tokenissuer.MinLifetime, refreshLifetime)
	}
	if h.Token.Rotate < h.Token.Lifetime {
		return fmt.Errorf("token rotate %v is shorter than the lifetime of a token, %v", time.Duration(h.Token.Rotate), time.Duration(h.Token.Lifetime))
	}
	if h.Realm == "" {
		return nil
	}
	u, err := url.Parse(h.Realm)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("realm %q: write an absolute URL as in https://registry.example.com/jwt/auth", h.Realm)
	}
	return nil
}

func (h *Handler) provisionDirectories(ctx caddy.Context) error {
	mods, err := ctx.LoadModule(h, "DirectoriesRaw")
	if err != nil {
		return err
	}
	if mods == nil {
		return nil
	}
	for _, mod := range mods.([]any) {
		h.directories = append(h.directories, mod.(Directory))
	}
	return nil
}

func (h *Handler) loadStorage(ctx caddy.Context) (Storage, error) {
	if h.StorageRaw == nil {
		h.StorageRaw = json.RawMessage(`{"type":"filesystem"}`)
	}
	mod, err := ctx.LoadModule(h, "StorageRaw")
	if err != nil {
		return nil, err
	}
	return mod.(Storage), nil
}

func (h *Handler) provisionGroups() error {
	seen := make(map[string]bool, len(h.Groups))
	for _, g := range h.Groups {
		switch {
		case !upstream.ValidRepository(g.Path):
			return fmt.Errorf("group %q: a group's path is lower-case letters and digits, separated by . _ __ - or /", g.Path)
		case strings.Contains("/"+g.Path+"/", infix):
			return fmt.Errorf("group %q: a group's path must not contain %s", g.Path, strings.Trim(infix, "/"))
		case seen[g.Path]:
			return fmt.Errorf("group %s is there twice", g.Path)
		}
		seen[g.Path] = true
		switch g.Visibility {
		case "":
			g.Visibility = Private
		case Private, Internal, Public:
		default:
			return fmt.Errorf("group %s: visibility %q: write private, internal or public", g.Path, g.Visibility)
		}
	}
	h.access = newAccess(h.Groups, h.PrivateGroups == nil || *h.PrivateGroups)
	return h.checkSomebodyMayPull()
}

// checkSomebodyMayPull refuses a configuration that can only have been meant
// otherwise. The kill switch is no mistake.
func (h *Handler) checkSomebodyMayPull() error {
	if len(h.Groups) == 0 {
		return errors.New("nobody can ever pull: there is no group; write `group NAME { members … }`")
	}
	if h.access.anyPublic || !h.access.privateGroups {
		return nil
	}
	if len(h.directories) == 0 {
		return errors.New("nobody can ever pull: there is no account and no public group; write `user NAME HASH`")
	}
	for _, g := range h.Groups {
		if g.Visibility == Internal || len(g.Members) > 0 {
			return nil
		}
	}
	return errors.New("nobody can ever pull: every group is private and has no members; write `members NAME…` in a group")
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	rt, err := parseRoute(r.URL.EscapedPath())
	if err == nil && rt.kind == notOurs {
		return next.ServeHTTP(w, r)
	}
	if err == nil {
		err = checkMethod(rt, r.Method)
	}
	ex := &exchange{Handler: h, w: w, r: r, route: rt}
	if rt.kind == authKind || rt.kind == keysKind {
		if err == nil {
			err = ex.serveTokens()
		}
	} else {
		w.Header()["Docker-Distribution-Api-Version"] = apiVersion
		if err == nil {
			err = ex.serveRegistry()
		}
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
