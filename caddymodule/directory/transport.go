package directory

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

// LoadTransport loads the guest transport in the field TransportRaw of a directory.
// Without one it returns a plain transport without a proxy. Private addresses are
// permitted, since the configuration alone says where the service is.
func LoadTransport(ctx caddy.Context, guest any, configured bool) (http.RoundTripper, error) {
	if !configured {
		return dial.NewTransport(dial.TransportConfig{AllowPrivate: true}), nil
	}
	module, err := ctx.LoadModule(guest, "TransportRaw")
	if err != nil {
		return nil, err
	}
	transport, ok := module.(http.RoundTripper)
	if !ok {
		return nil, fmt.Errorf("transport %T is not an http.RoundTripper", module)
	}
	return transport, nil
}
