package peers

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// checkTransport rejects a transport that would not encrypt, or would not verify whom it
// reaches: the answers of nodes are trusted about tags and about what a repository has.
func checkTransport(raw json.RawMessage) error {
	if raw == nil {
		return errTransport
	}
	var module struct {
		Protocol string `json:"protocol"`
	}
	t := new(reverseproxy.HTTPTransport)
	if err := json.Unmarshal(raw, &module); err != nil || module.Protocol != "http" {
		return fmt.Errorf("peers: the transport '%s' cannot be used between nodes; write `transport http { tls_server_name NAME }`", module.Protocol)
	}
	if err := json.Unmarshal(raw, t); err != nil {
		return fmt.Errorf("peers: transport: %w", err)
	}
	var instead string
	switch {
	case t.TLS == nil:
		return fmt.Errorf("peers: transport http: nodes use https only; write `tls_server_name NAME` in it, with the name of the site in the certificates of the nodes")
	case t.TLS.ServerName == "":
		return fmt.Errorf("peers: transport http: no server name; write `tls_server_name NAME` in it, with the name of the site in the certificates of the nodes")
	case t.TLS.InsecureSkipVerify:
		instead = "tls_insecure_skip_verify, with which anybody could answer for a node; leave it out and write `tls_trust_pool`"
	case len(t.TLS.ExceptPorts) > 0:
		instead = "tls_except_ports, because nodes use https only; leave it out"
	case slices.Contains(t.Versions, "h2c"):
		instead = "version h2c, because nodes use https only; leave it out"
	case t.ProxyProtocol != "":
		instead = "proxy_protocol, because requests between nodes have no client; leave it out"
	default:
		return nil
	}
	return fmt.Errorf("peers: transport http: cannot be used with %s", instead)
}

// maxHeader is the default for the greatest size of the header of an answer, in bytes. That
// of net/http is 10 MiB.
const maxHeader = 64 << 10

// transport makes the connections to the nodes. It belongs to a configuration.
type transport struct {
	http.RoundTripper
	replacer   *caddy.Replacer // for the server name
	serverName string
}

// loadTransport loads the module from its configuration, which checkTransport accepts.
func (c *Config) loadTransport(ctx caddy.Context) (*transport, error) {
	var proxy struct {
		Module json.RawMessage `json:"network_proxy"`
		URL    string          `json:"forward_proxy_url"`
	}
	if err := json.Unmarshal(c.TransportRaw, &proxy); err != nil {
		return nil, fmt.Errorf("peers: transport: %w", err)
	}
	if err := c.preferHTTP1(); err != nil {
		return nil, err
	}
	mod, err := ctx.LoadModule(c, "TransportRaw")
	if err != nil {
		return nil, fmt.Errorf("peers: transport: %w", err)
	}
	t, ok := mod.(*reverseproxy.HTTPTransport)
	if !ok {
		return nil, fmt.Errorf("peers: transport %T cannot be used between nodes; write `transport http`", mod)
	}
	if proxy.Module == nil && proxy.URL == "" {
		t.Transport.Proxy = nil
	}
	if t.MaxResponseHeaderSize == 0 {
		t.Transport.MaxResponseHeaderBytes = maxHeader
	}
	replacer := caddy.NewReplacer()
	serverName := replacer.ReplaceAll(t.TLS.ServerName, "")
	if serverName == "" || strings.ContainsAny(serverName, "/: ") {
		return nil, fmt.Errorf("peers: transport http: the server name '%s' is not a host name; correct tls_server_name", serverName)
	}
	return &transport{t, replacer, serverName}, nil
}

// preferHTTP1 sets the version of HTTP unless it is configured. With HTTP/2, layers take
// twice as long, and Go's server waits at its end for connections that it accepted just
// before: those of other nodes stay in use, since they probe.
func (c *Config) preferHTTP1() error {
	var settings map[string]json.RawMessage
	if err := json.Unmarshal(c.TransportRaw, &settings); err != nil {
		return fmt.Errorf("peers: transport: %w", err)
	}
	if _, set := settings["versions"]; set {
		return nil
	}
	settings["versions"] = json.RawMessage(`["1.1"]`)
	raw, err := json.Marshal(settings)
	c.TransportRaw = raw
	return err
}
