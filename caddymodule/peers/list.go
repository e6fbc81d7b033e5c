package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// maxNodes is the greatest number of nodes of a list. Each node probes each other one
// with every refresh of its list.
const maxNodes = 128

// lister provides the names of the nodes.
type lister interface {
	list(ctx context.Context) ([]string, error)
}

// static is a list that does not change.
type static []string

func (s static) list(context.Context) ([]string, error) { return s, nil }

// dynamic is a list from a module.
type dynamic struct{ source reverseproxy.UpstreamSource }

// list asks the module with a request of its own, which has what such modules expect
// of the requests of a handler. Modules may panic if they miss something, as in a
// handler, where the server catches it.
func (d *dynamic) list(ctx context.Context) (names []string, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the module panicked: %v", cause)
		}
	}()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://localhost"+ProbePath, nil)
	if err != nil {
		return nil, err
	}
	upstreams, err := d.source.GetUpstreams(caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, nil))
	if err != nil {
		return nil, err
	}
	for _, u := range upstreams {
		addr, err := caddy.ParseNetworkAddress(u.Dial)
		if err != nil || !strings.HasPrefix(addr.Network, "tcp") || addr.PortRangeSize() != 1 {
			return nil, fmt.Errorf("the module lists '%s', which is not a host with a port", u.Dial)
		}
		name, err := parseName(addr.JoinHostPort(0))
		if err != nil {
			return nil, fmt.Errorf("the module lists an %w", err)
		}
		names = append(names, name)
	}
	slices.Sort(names) // so that all nodes leave out the same ones
	names = slices.Compact(names)
	return names[:min(len(names), maxNodes)], nil
}

// parseNames returns the names of nodes, written as HOST:PORT, in the one form in which
// all nodes know them.
func parseNames(texts []string) ([]string, error) {
	if len(texts) > maxNodes {
		return nil, fmt.Errorf("%d nodes; write at most %d", len(texts), maxNodes)
	}
	var names []string
	for _, text := range texts {
		name, err := parseName(text)
		if err != nil {
			return nil, fmt.Errorf("%w; write a host and a port, as in node1.internal:8443", err)
		}
		if slices.Contains(names, name) {
			return nil, fmt.Errorf("the node %s is listed twice; leave one of them out", name)
		}
		names = append(names, name)
	}
	return names, nil
}

func parseName(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	number, portErr := strconv.ParseUint(port, 10, 16)
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if errors.Join(err, portErr) != nil || number == 0 || host == "" || strings.ContainsAny(host, "/@?#% ") {
		return "", fmt.Errorf("invalid node '%s'", text)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	return net.JoinHostPort(host, strconv.FormatUint(number, 10)), nil
}

// literal returns the names that are not empty and have no placeholders.
func literal(texts ...string) []string {
	return slices.DeleteFunc(slices.Clone(texts), func(text string) bool { return text == "" || strings.Contains(text, "{") })
}
