package caddymodule

import (
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// runningHandler returns the first handler of the running configuration.
func runningHandler(t testing.TB) *Handler {
	t.Helper()
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		if h := handlerIn(server.Routes); h != nil {
			return h
		}
	}
	t.Fatal("got no running handler, want one")
	return nil
}

func handlerIn(routes caddyhttp.RouteList) *Handler {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch h := handler.(type) {
			case *Handler:
				return h
			case *caddyhttp.Subroute:
				if h := handlerIn(h.Routes); h != nil {
					return h
				}
			}
		}
	}
	return nil
}
