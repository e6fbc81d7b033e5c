package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/credential"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/freshness"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/source"
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
	sources map[string]*source.Source
	busy    rate.Sometimes // limits the log lines of tooBusy
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
	clients := source.Clients{Lease: &h.lease, Logins: logins, Registries: registries, Events: h.events, Logger: processLogger}
	for _, u := range h.Upstreams {
		common, err := clients.Open(u.described(), u.login, "common")
		if err != nil {
			return err
		}
		u.sources = map[string]*source.Source{"": common}
	}
	for _, g := range h.Groups {
		for _, gu := range g.Upstreams {
			u := h.upstreams[gu.Name]
			login, err := gu.Source.Open(u.endpoints[0])
			if err != nil {
				return fmt.Errorf("group %s: upstream %s: %w", g.Path, gu.Name, err)
			}
			if u.sources[g.Path], err = clients.Open(u.described(), login, g.Path); err != nil {
				return err
			}
		}
	}
	var first []string
	for _, src := range h.Upstreams[0].sources {
		first = append(first, src.Name)
	}
	h.cache.adoption.Trust(first)
	return nil
}

// described returns what the clients of the upstream need to know.
func (u *Upstream) described() source.Upstream {
	return source.Upstream{
		Name: u.Name, Endpoints: u.endpoints, RealmHosts: u.RealmHosts, AllowPrivate: u.AllowPrivate, Offline: u.Offline,
		Transport: u.transport, Settings: u.settings,
	}
}

// sourceFor returns the source for the pulls of a group: with the credentials of the
// nearest group that has some, or with those of the upstream.
func (u *Upstream) sourceFor(group string) *source.Source {
	for path := range access.Upwards(group) {
		if own := u.sources[path]; own != nil {
			return own
		}
	}
	return u.sources[""]
}
