package peers

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// TestNamesHaveOneForm checks that names are the same at all nodes, however they are
// written.
func TestNamesHaveOneForm(t *testing.T) {
	for text, want := range map[string]string{
		"node1.internal:8443":       "node1.internal:8443",
		"Node1.Internal.:08443":     "node1.internal:8443",
		"10.0.0.1:443":              "10.0.0.1:443",
		"[::ffff:10.0.0.1]:443":     "10.0.0.1:443",
		"[2001:DB8:0:0:0:0:0:1]:1":  "[2001:db8::1]:1",
		"node1":                     "",
		"node1:":                    "",
		":8443":                     "",
		".:8443":                    "",
		"node1:0":                   "",
		"node1:65536":               "",
		"node1:https":               "",
		"2001:db8::1:443":           "",
		"https://node1:8443":        "",
		"user@node1:8443":           "",
		"node 1:8443":               "",
		"node1/path:8443":           "",
		"node1:8443,node2:8443":     "",
		"{env.NODE}:8443":           "{env.node}:8443",
		"node1.internal:8443-8450":  "",
		"tcp4/node1.internal:8443":  "",
		"unix//run/caddy.sock:8443": "",
	} {
		got, err := parseNames([]string{text})
		if want == "" && err == nil || want != "" && !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %q, %v, want %q", text, got, err, want)
		}
	}
	if _, err := parseNames([]string{"a:1", "A.:1"}); err == nil {
		t.Error("got no error for a name that is listed twice, want one")
	}
	if _, err := parseNames(slices.Repeat([]string{"a:1"}, maxNodes+1)); err == nil || !strings.Contains(err.Error(), "at most 128") {
		t.Errorf("got %v for %d names, want an error", err, maxNodes+1)
	}
}

// module is a module that lists nodes.
type module func(r *http.Request) ([]*reverseproxy.Upstream, error)

func (m module) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) { return m(r) }

// dials returns a module that lists addresses.
func dials(addresses ...string) module {
	return func(*http.Request) (list []*reverseproxy.Upstream, err error) {
		for _, address := range addresses {
			list = append(list, &reverseproxy.Upstream{Dial: address})
		}
		return list, nil
	}
}

// TestModulesGetARequest checks that modules find in the request's context what the
// handler of reverse_proxy would give them, and that what they list is read.
func TestModulesGetARequest(t *testing.T) {
	d := &dynamic{module(func(r *http.Request) ([]*reverseproxy.Upstream, error) {
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		caddyhttp.SetVar(r.Context(), "host", "node1")
		_ = r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
		return dials(repl.ReplaceAll("tcp/{http.vars.host}:{http.request.port}443", ""), "node0:1", "tcp6/NODE0.:1")(r)
	})}
	got, err := d.list(t.Context())
	if want := []string{"node0:1", "node1:443"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, address := range []string{"unix//run/caddy.sock", "node1:1-2", "udp/node1:1", "node1", ""} {
		if got, err := (&dynamic{dials(address)}).list(t.Context()); err == nil {
			t.Errorf("got %v for the address %q, want an error", got, err)
		}
	}
	many := make([]string, 3*maxNodes)
	for i := range many {
		many[i] = "node" + strings.Repeat("x", i/2%100) + string(rune('a'+i%26)) + ":1"
	}
	if got, err := (&dynamic{dials(many...)}).list(t.Context()); err != nil || len(got) != maxNodes {
		t.Errorf("got %d nodes, %v from a list of %d, want %d", len(got), err, len(many), maxNodes)
	}
}

// TestModulesThatFail checks that the list is kept if a module fails in whatever way,
// and that a module that hangs holds up neither the probes nor the end.
func TestModulesThatFail(t *testing.T) {
	n := newNetwork(t)
	s := []*server{n.listen(), n.listen()}
	c := n.run(s[0], n.config(n.names()...))
	n.run(s[1], n.config(n.names()...))
	c.refresh(t.Context())
	node := c.node(t, s[1])
	for name, module := range map[string]module{
		"error": func(*http.Request) ([]*reverseproxy.Upstream, error) { return nil, errors.New("no") },
		"panic": func(*http.Request) ([]*reverseproxy.Upstream, error) { panic("no") },
		"empty": dials(),
	} {
		c.current().source = &dynamic{module}
		c.refresh(t.Context())
		if !isAsked(c, node) || c.listErr == nil {
			t.Errorf("%s: got error %v, list %v, want an error and the former list", name, c.listErr, names(*c.nodes.Load()))
		}
	}
	release := make(chan struct{})
	hung := make(chan struct{}, 1)
	c.times.lookup = time.Millisecond
	c.current().source = &dynamic{module(func(*http.Request) ([]*reverseproxy.Upstream, error) {
		hung <- struct{}{}
		<-release
		return nil, errors.New("late")
	})}
	c.refresh(t.Context())
	if !errors.Is(c.listErr, context.DeadlineExceeded) || !isAsked(c, node) {
		t.Errorf("got error %v from a module that hangs, want context.DeadlineExceeded", c.listErr)
	}
	c.refresh(t.Context())
	if !errors.Is(c.listErr, errLooking) || !isAsked(c, node) || len(hung) != 1 {
		t.Errorf("got error %v while the lookup hangs, want errLooking", c.listErr)
	}
	close(release)
}
