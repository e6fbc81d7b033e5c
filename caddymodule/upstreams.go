package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// Upstream is a registry behind the proxy.
type Upstream struct {
	// Name is how image names and groups refer to it, as in docker.io.
	Name string `json:"name"`

	// Endpoint is the URL of its API: https://NAME by default, and Docker
	// Hub's for docker.io.
	Endpoint string `json:"endpoint,omitempty"`

	// Credentials are the login there. Without, pulls are anonymous.
	Credentials *Credentials `json:"credentials,omitempty"`

	// FreshFor is how long what a tag stands for is believed without asking
	// again: 5m by default.
	FreshFor caddy.Duration `json:"fresh_for,omitempty"`

	// Connections is how many connections a blob of more than 32 MiB is
	// fetched with at once, a range each, where one of them is slow: 4 by
	// default, 16 at most. 1 is for upstreams that should not be asked for
	// ranges. A transport other than the default one may put them all on one
	// connection.
	Connections int `json:"connections,omitempty"`

	// Downloads bound what is fetched from the upstream at a time, and how slowly.
	Downloads Downloads `json:"downloads,omitzero"`

	// AllowPrivate lets connections go to private, loopback and link-local
	// addresses.
	AllowPrivate bool `json:"allow_private,omitempty"`

	// RealmHosts are hosts of token services that may be given the
	// credentials, besides those of the endpoint's own domain.
	RealmHosts []string `json:"realm_hosts,omitempty"`

	// Transport makes the connections; by default a plain one over HTTP/1.1
	// and HTTP/2 that uses no proxy.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	endpoint  *url.URL
	settings  string // of the endpoint, in a fingerprint
	login     login
	transport http.RoundTripper // of a guest, else nil
	// sources are by group where a group has a login of its own, and the
	// common one is under the empty path.
	sources map[string]*source
	busy    rate.Sometimes // that it is busy is logged so often
}

// source is an upstream that is asked with one login.
type source struct {
	*upstream.Registry

	// name stands for endpoint and login in what the index records. What was
	// confirmed to one login is not known to another, be it that of a former
	// configuration or of another site on the same storage.
	name string

	// endpoint stands for the endpoint with all that decides whose bytes come
	// from there, whatever the login. Downloads under way are shared within it.
	endpoint string
}

// GroupUpstream is a group's own login at an upstream.
type GroupUpstream struct {
	// Name is that of a declared upstream.
	Name string `json:"name"`

	// Credentials replace the upstream's own for the group.
	Credentials *Credentials `json:"credentials,omitempty"`
}

// Credentials are a login at an upstream.
type Credentials struct {
	// Username may be a placeholder.
	Username string `json:"username"`

	// Password must be a placeholder, as in {env.HUB_TOKEN} or
	// {file./run/secrets/hub}: the configuration can be read by whoever may
	// reach the admin API, and is written to disk.
	Password string `json:"password"`
}

// login are credentials with their placeholders filled in.
type login struct {
	username string
	password upstream.Secret
}

const (
	dockerHub       = "docker.io"
	defaultFreshFor = 5 * time.Minute

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
		h.upstreams[u.Name] = u
	}
	return nil
}

func (u *Upstream) provision(ctx caddy.Context) error {
	if u.FreshFor == 0 {
		u.FreshFor = caddy.Duration(defaultFreshFor)
	}
	u.busy.Interval = busyInterval
	if u.Connections == 0 {
		u.Connections = defaultConnections
	}
	endpoint, err := caddy.NewReplacer().ReplaceOrErr(u.Endpoint, true, true)
	if err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	if u.endpoint, err = parseEndpoint(u.Name, endpoint); err != nil {
		return err
	}
	// Loading the transport takes its configuration away.
	u.settings = fmt.Sprintf("%v %q", u.AllowPrivate, u.TransportRaw)
	if u.login, err = u.Credentials.resolve(); err != nil || u.TransportRaw == nil {
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
		return fmt.Errorf("transport %T cannot be used here", mod)
	}
	if u.AllowPrivate {
		return nil
	}
	return guardTransport(u.transport, u.endpoint)
}

func (c *Credentials) resolve() (login, error) {
	if c == nil {
		return login{}, nil
	}
	repl := caddy.NewReplacer()
	username, err := repl.ReplaceOrErr(c.Username, true, true)
	if err != nil || username == "" {
		return login{}, errors.Join(errors.New("the user name of the credentials is empty"), err)
	}
	password, err := repl.ReplaceOrErr(c.Password, true, true)
	if err != nil || password == "" {
		return login{}, fmt.Errorf("the password placeholder %s is empty, or its file cannot be read", c.Password)
	}
	return login{username, upstream.Secret(password)}, nil
}

// openRegistries makes a client for each login at each upstream. A cache of an
// earlier version keeps what it has of the first one.
func (h *Handler) openRegistries() error {
	for _, u := range h.Upstreams {
		common, err := h.openRegistry(u, u.login)
		if err != nil {
			return err
		}
		u.sources = map[string]*source{"": common}
	}
	for _, g := range h.Groups {
		for _, gu := range g.Upstreams {
			u := h.upstreams[gu.Name]
			login, err := gu.Credentials.resolve()
			if err != nil {
				return fmt.Errorf("group %s: upstream %s: %w", g.Path, gu.Name, err)
			}
			if u.sources[g.Path], err = h.openRegistry(u, login); err != nil {
				return err
			}
		}
	}
	var first []string
	for _, from := range h.Upstreams[0].sources {
		first = append(first, from.name)
	}
	h.cache.adoption.Trust(first)
	return nil
}

func (h *Handler) openRegistry(u *Upstream, login login) (*source, error) {
	config := upstream.Config{
		Name:       u.Name,
		Endpoint:   u.endpoint,
		Username:   login.username,
		Password:   login.password,
		RealmHosts: u.RealmHosts,
		Transport:  u.transport,
		UserAgent:  "caddy-dependency-proxy",
	}
	name := u.Name // the client may outlive u
	config.Hooks.Token = func(realmHost string, err error) {
		if upstream.KindOf(err) == upstream.Credentials {
			processLogger().Warn("upstream refuses the configured credentials",
				zap.String("upstream", name), zap.String("realm", realmHost), zap.Error(err))
		}
	}
	// A guest transport belongs to this configuration, and so does its client.
	key := fmt.Sprintf("%s %s %q %q %q %v %p", u.Name, u.endpoint, login.username, string(login.password), u.RealmHosts, u.AllowPrivate, u.transport)
	sum := sha256.Sum256([]byte(key)) // pool keys can be listed
	if config.Transport == nil {
		config.Transport = upstream.NewTransport(upstream.TransportConfig{AllowPrivate: u.AllowPrivate})
		config.Ranges = upstream.NewTransport(upstream.TransportConfig{AllowPrivate: u.AllowPrivate, OnlyHTTP1: true})
	}
	registry, err := openRegistry(&h.lease, string(sum[:]), config)
	if err != nil {
		return nil, err
	}
	sum = sha256.Sum256([]byte(u.endpoint.String() + "\x00" + login.username))
	return &source{
		Registry: registry,
		name:     u.Name + "@" + hex.EncodeToString(sum[:6]),
		endpoint: fingerprint(u.settings, u.endpoint),
	}, nil
}

// fingerprint tells endpoints apart by all of their addresses and by how they are
// connected to.
func fingerprint(settings string, addresses ...*url.URL) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q", settings, addresses))
	return hex.EncodeToString(sum[:])
}

// sourceFor returns what is asked on a group's behalf: with the login of
// the nearest group that has one.
func (u *Upstream) sourceFor(group string) *source {
	for path := range access.Upwards(group) {
		if own := u.sources[path]; own != nil {
			return own
		}
	}
	return u.sources[""]
}
