// Package peers lets the nodes of a site ask each other for content before they ask
// an upstream.
//
// The nodes are instances of Caddy with the same site, behind a load balancer, that share
// Caddy's storage. A [Cluster] has the list of them. For each key it ranks them by a hash
// ([Cluster.Ahead]): a node asks those that are ranked before it, so that only
// the first one asks the upstream. There is no election and no membership protocol: if
// nodes disagree about the list, the upstream is asked once more.
//
// A request to another node ([Node.Get]) has a token that the shared keys sign. It names
// the process that is asked and all of what is asked for ([Ask]), so that it is valid for
// nothing else; see [Cluster.Admit].
package peers

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/certmagic"
)

// Config configures the other nodes of a site. They must have the same site, with the
// same name, groups and upstreams, and the same storage of Caddy (the global option
// storage), which has the keys that sign their requests.
type Config struct {
	// To lists the nodes as HOST:PORT, at most 128. This node may be among them: it
	// finds itself. Either To or Dynamic is required. Placeholders are replaced when
	// the configuration is loaded.
	To []string `json:"to,omitempty"`

	// Dynamic provides the list of nodes. It is asked every 10 seconds, apart from
	// any pull. Modules like srv and a remember their answers for a minute by
	// default; set their refresh to learn about changes sooner. If the module fails
	// or lists nothing, the former list is used.
	DynamicRaw json.RawMessage `json:"dynamic,omitempty" caddy:"namespace=http.reverse_proxy.upstreams inline_key=source"`

	// Self is the HOST:PORT under which the other nodes list this one. It is only
	// needed if this node cannot reach itself under that address. Placeholders are
	// replaced when the configuration is loaded. By default a node recognizes itself
	// by its own answer.
	Self string `json:"self,omitempty"`

	// Transport makes the connections to the nodes. It must be the module http with
	// TLS and a server name, for which each node has a certificate and serves the
	// site. Unlike for reverse_proxy, a proxy that the environment names is not used.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	settings  string // identifies the configuration; loading the modules clears it
	self      string // Self without placeholders
	source    lister
	transport *transport
}

// The errors of a configuration, which the Caddyfile shows with a line.
var (
	errNoNodes   = errors.New("peers: no nodes; write `to HOST:PORT...`, or `dynamic MODULE ...` with a module of http.reverse_proxy.upstreams")
	errTwoLists  = errors.New("peers: to and dynamic exclude each other; leave one of them out, or write `dynamic multi` to combine lists")
	errTransport = errors.New("peers: no transport; write `transport http { tls_server_name NAME }`, with the name of the site in the certificates of the nodes")
	errStorage   = errors.New("peers: the nodes must share the signing keys, but they are in Caddy's local data directory; set the global option storage, as in `storage file_system /shared/caddy` or a module for Redis, Consul or PostgreSQL")
)

// Check checks what needs nothing but the configuration.
func (c *Config) Check() error {
	if c == nil {
		return nil
	}
	switch {
	case len(c.To) == 0 && c.DynamicRaw == nil:
		return errNoNodes
	case len(c.To) > 0 && c.DynamicRaw != nil:
		return errTwoLists
	}
	return cmp.Or(c.checkNames(), checkTransport(c.TransportRaw))
}

// checkNames checks the names without placeholders.
func (c *Config) checkNames() error {
	if _, err := parseNames(literal(c.To...)); err != nil {
		return fmt.Errorf("peers: to: %w", err)
	}
	if _, err := parseNames(literal(c.Self)); err != nil {
		return fmt.Errorf("peers: self: %w", err)
	}
	return nil
}

// Provision loads the modules. It must be called before [Config.Open], and may be
// called for nil.
func (c *Config) Provision(ctx caddy.Context) error {
	if c == nil {
		return nil
	}
	if err := c.Check(); err != nil {
		return err
	}
	if isLocal(ctx.Storage()) {
		return errStorage
	}
	return c.load(ctx)
}

func (c *Config) load(ctx caddy.Context) error {
	to, err := replaced("to", c.To...)
	if err != nil {
		return err
	}
	if c.Self != "" {
		self, err := replaced("self", c.Self)
		if err != nil {
			return err
		}
		c.self = self[0]
	}
	c.settings = fmt.Sprintf("%q %q %q %q", to, c.self, c.DynamicRaw, c.TransportRaw)
	if c.source = static(to); c.DynamicRaw != nil {
		mod, err := ctx.LoadModule(c, "DynamicRaw")
		if err != nil {
			return fmt.Errorf("peers: dynamic: %w", err)
		}
		upstreams, ok := mod.(reverseproxy.UpstreamSource)
		if !ok {
			return fmt.Errorf("peers: dynamic: module %T provides no upstreams", mod)
		}
		c.source = &dynamic{source: upstreams}
	}
	c.transport, err = c.loadTransport(ctx)
	return err
}

// replaced returns names whose placeholders are replaced.
func replaced(option string, texts ...string) ([]string, error) {
	texts = slices.Clone(texts)
	for i, text := range texts {
		var err error
		if texts[i], err = caddy.NewReplacer().ReplaceOrErr(text, true, true); err != nil {
			return nil, fmt.Errorf("peers: %s: %w", option, err)
		}
	}
	names, err := parseNames(texts)
	if err != nil {
		return nil, fmt.Errorf("peers: %s: %w", option, err)
	}
	return names, nil
}

// isLocal reports whether a storage is Caddy's default one, which each machine has for
// itself. A directory that the configuration names may be shared.
func isLocal(storage certmagic.Storage) bool {
	files, ok := storage.(*certmagic.FileStorage)
	return ok && filepath.Clean(files.Path) == filepath.Clean(caddy.DefaultStorage.Path)
}
