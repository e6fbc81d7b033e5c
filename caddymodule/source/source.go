// Package source opens the clients with which a site pulls from its upstreams. What
// these report is logged, counted, traced and emitted as events.
package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/credential"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/events"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/traces"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

// userAgent is what registries see.
const userAgent = "caddy-dependency-proxy"

// Upstream describes an upstream.
type Upstream struct {
	// Name is the configured name.
	Name string

	// Endpoints are its addresses, at least one.
	Endpoints []*url.URL

	// RealmHosts, AllowPrivate and Offline are the settings of those names.
	RealmHosts            []string
	AllowPrivate, Offline bool

	// Transport makes the connections. It belongs to a configuration. The default is
	// that of package upstream.
	Transport http.RoundTripper

	// Settings are those that determine, beside the endpoints, which server answers.
	Settings string
}

// Source is an upstream together with the credentials that are used there.
type Source struct {
	*upstream.Mirrors

	// Name represents the first endpoint and the identity of the login in the
	// index. Content that was confirmed to one identity is not served to another,
	// even if that is of another configuration or another site with the same
	// storage.
	Name string

	// Endpoint represents all endpoints and the settings that determine which
	// server answers there. Sources with the same endpoint share downloads.
	Endpoint string
}

// Clients opens clients. They and their logins outlive a configuration, and are shared
// by all sites that have the same ones.
type Clients struct {
	Lease      *pool.Lease // has what is opened
	Logins     *pool.Pool[auth.Source]
	Registries *pool.Pool[*upstream.Registry]
	Events     *events.Emitter
	Logger     func() *zap.Logger // returns the present logger of the process
}

// Open opens a client for each endpoint of an upstream. The holder of the login is the
// path of a group, or common.
func (c *Clients) Open(u Upstream, login credential.Login, holder string) (*Source, error) {
	config := upstream.Config{Name: u.Name, RealmHosts: u.RealmHosts, UserAgent: userAgent, Offline: u.Offline, Hooks: c.hooks(u.Name, len(u.Endpoints) > 1)}
	var err error
	// All clients with the same login share it, so that programs run once.
	if config.Login, err = c.Logins.Acquire(c.Lease, login.Key, func() (auth.Source, error) { return login.LoginSource, nil }); err != nil {
		return nil, err
	}
	var registries []*upstream.Registry
	for _, config.Endpoint = range u.Endpoints {
		// A transport module belongs to this configuration, and so does its registry.
		key := fmt.Sprintf("%s %s %s %q %v %p %v", u.Name, config.Endpoint, login.Key, u.RealmHosts, u.AllowPrivate, u.Transport, u.Offline)
		sum := sha256.Sum256([]byte(key)) // the keys of a pool are not secret
		reports := events.UpstreamSource(string(sum[:]))
		c.Events.Subscribe(reports, map[string]any{"login": holder})
		registry, err := c.Registries.Acquire(c.Lease, string(sum[:]), func() (*upstream.Registry, error) {
			own := config
			own.Hooks = events.UpstreamHooks(reports, config.Hooks)
			own.Transport, own.Ranges = u.transports()
			return upstream.New(own)
		})
		if err != nil {
			return nil, err
		}
		registries = append(registries, registry)
	}
	sum := sha256.Sum256([]byte(u.Endpoints[0].String() + "\x00" + login.Identity))
	return &Source{
		Mirrors:  upstream.NewMirrors(registries[0], registries[1:]...),
		Name:     u.Name + "@" + hex.EncodeToString(sum[:6]),
		Endpoint: u.fingerprint(),
	}, nil
}

// transports returns the transports of a client, with traces. That for ranges is nil if
// it is the same.
func (u *Upstream) transports() (transport, ranges http.RoundTripper) {
	if u.Transport != nil {
		return traces.Transport(u.Transport, u.Name), nil
	}
	transport = dial.NewTransport(dial.TransportConfig{AllowPrivate: u.AllowPrivate})
	ranges = dial.NewTransport(dial.TransportConfig{AllowPrivate: u.AllowPrivate, OnlyHTTP1: true})
	return traces.Transport(transport, u.Name), traces.Transport(ranges, u.Name)
}

// fingerprint returns a text that is equal for upstreams with the same addresses and
// the same settings of their connections. A site that is offline does not
// join a download of one that is not.
func (u *Upstream) fingerprint() string {
	settings := fmt.Sprint(u.Settings, u.Offline)
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q", settings, u.Endpoints))
	return hex.EncodeToString(sum[:])
}
