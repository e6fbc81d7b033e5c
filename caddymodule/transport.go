package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

// checkTransport rejects the configuration of a transport that could connect to
// private addresses without allow_private: the plugin must be able to check the
// address of each connection before a byte is sent. guardTransport checks the
// transport that is made from the configuration.
func (u *Upstream) checkTransport() error {
	var t struct {
		Protocol        string   `json:"protocol"`
		Versions        []string `json:"versions"`
		ForwardProxyURL string   `json:"forward_proxy_url"`
		NetworkProxy    struct {
			From string `json:"from"`
		} `json:"network_proxy"`
		TLS struct {
			ServerName string `json:"server_name"`
		} `json:"tls"`
	}
	if u.AllowPrivate || u.TransportRaw == nil || json.Unmarshal(u.TransportRaw, &t) != nil || t.Protocol != "http" {
		return nil
	}
	var what, instead string
	switch {
	case slices.Contains(t.Versions, "3"):
		what, instead = "HTTP/3", "leave 3 out of versions"
	case t.ForwardProxyURL != "":
		what, instead = "forward_proxy_url", "leave it out"
	case t.NetworkProxy.From != "" && t.NetworkProxy.From != "none":
		what, instead = "network_proxy "+t.NetworkProxy.From, "leave it out"
	case strings.Contains(t.TLS.ServerName, "{"):
		what, instead = "a tls_server_name with placeholders", "write a plain name"
	default:
		return nil
	}
	return fmt.Errorf("upstream %s: transport http: connections with %s cannot be kept from private addresses; %s, or write `allow_private` to permit private addresses", u.Name, what, instead)
}

// errProxied is the error of a request that a transport would send through a proxy.
var errProxied = errors.New("the environment (HTTP_PROXY, HTTPS_PROXY) names a proxy, through which connections cannot be kept from private addresses; write `network_proxy none` in the transport, or `allow_private` to permit private addresses")

// guardTransport makes a transport reject connections to private addresses. Caddy's
// transport takes a proxy from the environment by default: guardTransport returns an
// error if the transport would use one for an endpoint, and lets other requests
// through a proxy fail.
func guardTransport(transport http.RoundTripper, endpoints ...*url.URL) error {
	t, ok := transport.(*reverseproxy.HTTPTransport)
	if !ok {
		return fmt.Errorf("transport %T cannot be kept from private addresses; write `allow_private` to permit private addresses", transport)
	}
	t.Transport.DialContext = dial.Guard(t.Transport.DialContext)
	if dialTLS := t.Transport.DialTLSContext; dialTLS != nil {
		t.Transport.DialTLSContext = dial.Guard(dialTLS)
	}
	proxy := t.Transport.Proxy
	t.Transport.Proxy = func(r *http.Request) (*url.URL, error) {
		if proxy == nil {
			return nil, nil
		}
		switch u, err := proxy(r); {
		case err != nil:
			return nil, err
		case u != nil:
			return nil, errProxied
		}
		return nil, nil
	}
	for _, endpoint := range endpoints {
		if _, err := t.Transport.Proxy(&http.Request{URL: endpoint}); err != nil {
			return err
		}
	}
	return nil
}
