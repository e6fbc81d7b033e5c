package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/credential"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/events"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/freshness"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/traces"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// Upstream is a registry that images are pulled from.
type Upstream struct {
	// Name identifies the upstream in image names and in groups. It is usually
	// the host of the registry, as in docker.io.
	Name string `json:"name"`

	// Endpoint is the URL of the registry. The default is https://NAME and, for
	// docker.io, that of Docker Hub.
	Endpoint string `json:"endpoint,omitempty"`

	// FallbackEndpoints are URLs of registries with the same content, at most 7.
	// They are asked in order if Endpoint cannot answer: if no connection is made,
	// the response takes too long, or it is 5xx or 429. They receive the
	// credentials, too. An http URL must not follow an https one. The default is
	// none.
	FallbackEndpoints []string `json:"fallback_endpoints,omitempty"`

	// Source is the login for all pulls from the upstream. Without it, pulls are
	// anonymous.
	credential.Source

	// Policy says how long the tags of the upstream are used.
	freshness.Policy

	// Connections is the number of connections, from 1 to 16, with which a blob
	// of more than 32 MiB is downloaded in ranges if a single one is slow. The
	// default is 4. Use 1 if the upstream should not be asked for ranges. A
	// transport other than the default one may use one connection for all.
	Connections int `json:"connections,omitempty"`

	// Downloads limits the downloads from the upstream.
	Downloads Downloads `json:"downloads,omitzero"`

	// AllowPrivate permits connections to private, loopback and link-local
	// addresses. The default is false.
	AllowPrivate bool `json:"allow_private,omitempty"`

	// RealmHosts are the hosts of token services that may receive the
	// credentials, in addition to those in the domain of the endpoint.
	RealmHosts []string `json:"realm_hosts,omitempty"`

	// Transport makes the connections. The default is a transport for HTTP/1.1
	// and HTTP/2 without a proxy.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	endpoints []*url.URL // Endpoint and FallbackEndpoints
	settings  string     // the settings that belong to the fingerprint of the endpoint
	login     credential.Login
	transport http.RoundTripper // nil for the default transport
	// sources are by the path of the group whose credentials they use. The path
	// is empty for the credentials of the upstream.
	sources map[string]*source
	busy    rate.Sometimes // limits the log lines of tooBusy
}

// source is an upstream together with the credentials that are used there.
type source struct {
	*upstream.Mirrors

	// name represents the first endpoint and the identity of the login in the
	// index. Content that was confirmed to one identity is not served to another,
	// even if that is of another configuration or another site with the same
	// storage.
	name string

	// endpoint represents all endpoints and the settings that determine which
	// server answers there. Sources with the same endpoint share downloads.
	endpoint string
}

// GroupUpstream has the credentials of a group at an upstream.
type GroupUpstream struct {
	// Name is the name of a declared upstream.
	Name string `json:"name"`

	// Source replaces the login of the upstream.
	credential.Source
}

const (
	dockerHub = "docker.io"

	defaultConnections = 4
	maxConnections     = 16
)

func (h *Handler) provisionUpstreams(ctx caddy.Context) error {
	if len(h.Upstreams) == 0 {
		h.Upstreams = []*Upstream{{Name: dockerHub}}
	}
	h.upstreams = make(map[string]*Upstream, len(h.Upstreams))
	for _, u := range h.Upstreams {
		if err := u.provision(ctx); err != nil {
			return fmt.Errorf("upstream %s: %w", u.Name, err)
		}
		if u.Offline = u.Offline || h.Offline; u.Offline {
			h.logger.Info("the upstream is offline; only what is cached is served", zap.String("upstream", u.Name))
		}
		h.upstreams[u.Name] = u
	}
	return nil
}

func (u *Upstream) provision(ctx caddy.Context) error {
	if err := u.Policy.Provision(u.Name); err != nil {
		return err
	}
	u.busy.Interval = busyInterval
	if u.Connections == 0 {
		u.Connections = defaultConnections
	}
	var endpoints []string
	for _, text := range append([]string{u.Endpoint}, u.FallbackEndpoints...) {
		endpoint, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
		if err != nil {
			return fmt.Errorf("endpoint: %w", err)
		}
		endpoints = append(endpoints, endpoint)
	}
	var err error
	if u.endpoints, err = parseEndpoints(u.Name, endpoints); err != nil {
		return err
	}
	// Loading the transport clears its configuration.
	u.settings = fmt.Sprintf("%v %q", u.AllowPrivate, u.TransportRaw)
	if u.login, err = u.Source.Open(u.endpoints[0]); err != nil || u.TransportRaw == nil {
		return err
	}
	return u.loadTransport(ctx)
}

func (u *Upstream) loadTransport(ctx caddy.Context) error {
	mod, err := ctx.LoadModule(u, "TransportRaw")
	if err != nil {
		return err
	}
	var ok bool
	if u.transport, ok = mod.(http.RoundTripper); !ok {
		return fmt.Errorf("transport %T is not an http.RoundTripper", mod)
	}
	if u.AllowPrivate {
		return nil
	}
	return guardTransport(u.transport, u.endpoints...)
}

// openRegistries opens a registry for each login at each upstream. The content that
// a cache of an earlier version has from the first upstream is kept.
func (h *Handler) openRegistries() error {
	for _, u := range h.Upstreams {
		common, err := h.openRegistry(u, u.login, "common")
		if err != nil {
			return err
		}
		u.sources = map[string]*source{"": common}
	}
	for _, g := range h.Groups {
		for _, gu := range g.Upstreams {
			u := h.upstreams[gu.Name]
			login, err := gu.Source.Open(u.endpoints[0])
			if err != nil {
				return fmt.Errorf("group %s: upstream %s: %w", g.Path, gu.Name, err)
			}
			if u.sources[g.Path], err = h.openRegistry(u, login, g.Path); err != nil {
				return err
			}
		}
	}
	var first []string
	for _, src := range h.Upstreams[0].sources {
		first = append(first, src.name)
	}
	h.cache.adoption.Trust(first)
	return nil
}

// openRegistry opens a registry for each endpoint of an upstream. The holder of the
// login is the path of a group, or common.
func (h *Handler) openRegistry(u *Upstream, login credential.Login, holder string) (*source, error) {
	config := upstream.Config{
		Name:       u.Name,
		RealmHosts: u.RealmHosts,
		Transport:  u.transport,
		UserAgent:  "caddy-dependency-proxy",
		Offline:    u.Offline,
	}
	var err error
	if config.Login, err = openLogin(&h.lease, login); err != nil {
		return nil, err
	}
	name := u.Name // the registry may outlive u
	config.Hooks.Token = func(realmHost string, err error) {
		message := "upstream rejected the configured credentials"
		switch upstream.KindOf(err) {
		case upstream.Withheld:
			message = "the configured credentials cannot be used at the upstream"
			fallthrough
		case upstream.Credentials:
			processLogger().Warn(message, zap.String("upstream", name), zap.String("realm", realmHost), zap.Error(err))
		}
	}
	metrics.CountUpstream(name, &config.Hooks)
	several := len(u.endpoints) > 1
	config.Hooks.Paused = func(host string, pause time.Duration, err error) {
		message := "an endpoint of an upstream cannot answer; asking the others"
		switch {
		case several:
		case upstream.KindOf(err) == upstream.RateLimited:
			message = "an upstream limits requests; it is not asked for a while"
		default:
			return // Changed tells
		}
		processLogger().Warn(message,
			zap.String("upstream", name), zap.String("endpoint", host), zap.Duration("pause", pause), zap.Error(err))
	}
	config.Hooks.Changed = func(change upstream.Change, state upstream.State) {
		about := processLogger().With(zap.String("upstream", name), zap.String("endpoint", state.Host))
		switch change {
		case upstream.WentDown:
			about.Warn("an upstream is down; serving what is stored until it answers", zap.String("last_error", state.LastError))
		case upstream.CameUp:
			about.Info("an upstream that was down answers again")
		case upstream.BudgetLow:
			about.Warn("less than 20 % of the pull limit of an upstream remain; tags are checked less often",
				zap.Int64("limit", state.Budget.Limit), zap.Int64("remaining", state.Budget.Remaining), zap.Duration("window", state.Budget.Window))
		}
	}
	var registries []*upstream.Registry
	for _, config.Endpoint = range u.endpoints {
		// A transport module belongs to this configuration, and so does its registry.
		key := fmt.Sprintf("%s %s %s %q %v %p %v", u.Name, config.Endpoint, login.Key, u.RealmHosts, u.AllowPrivate, u.transport, config.Offline)
		sum := sha256.Sum256([]byte(key)) // the keys of a pool are not secret
		if u.transport == nil {
			config.Transport = upstream.NewTransport(upstream.TransportConfig{AllowPrivate: u.AllowPrivate})
			config.Ranges = upstream.NewTransport(upstream.TransportConfig{AllowPrivate: u.AllowPrivate, OnlyHTTP1: true})
		}
		reports := events.UpstreamSource(string(sum[:]))
		h.events.Subscribe(reports, map[string]any{"login": holder})
		traced := config
		traced.Hooks = events.UpstreamHooks(reports, config.Hooks)
		traced.Transport = traces.Transport(config.Transport, name)
		if config.Ranges != nil {
			traced.Ranges = traces.Transport(config.Ranges, name)
		}
		registry, err := openRegistry(&h.lease, string(sum[:]), traced)
		if err != nil {
			return nil, err
		}
		registries = append(registries, registry)
	}
	sum := sha256.Sum256([]byte(u.endpoints[0].String() + "\x00" + login.Identity))
	return &source{
		Mirrors:  upstream.NewMirrors(registries[0], registries[1:]...),
		name:     u.Name + "@" + hex.EncodeToString(sum[:6]),
		endpoint: fingerprint(fmt.Sprint(u.settings, config.Offline), u.endpoints...), // a site that is offline follows no download of another one
	}, nil
}

// sourceFor returns the source for the pulls of a group: with the credentials of the
// nearest group that has some, or with those of the upstream.
func (u *Upstream) sourceFor(group string) *source {
	for path := range access.Upwards(group) {
		if own := u.sources[path]; own != nil {
			return own
		}
	}
	return u.sources[""]
}
