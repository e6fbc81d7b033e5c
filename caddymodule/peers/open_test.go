package peers

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
)

// open opens the cluster of a configuration as a handler does.
func (n *network) open(c *Config, site Site) (*Cluster, *pool.Lease) {
	n.t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: n.t.Context()})
	if err := c.load(ctx); err != nil {
		n.t.Fatal(err)
	}
	site.Issuer, site.Logger = n.issuer(), func() *zap.Logger { return n.logger }
	lease := new(pool.Lease)
	cluster, err := c.Open(lease, site)
	if err != nil {
		n.t.Fatal(err)
	}
	*lease = append(*lease, cancel) // released first: the modules of the configuration end
	n.t.Cleanup(lease.Release)
	return cluster, lease
}

// TestClusterOutlivesConfiguration checks that the process keeps its id and the state
// of the nodes during a reload with the same settings, that the modules are those of a
// configuration that is still in use, and that the goroutine ends with the last one.
func TestClusterOutlivesConfiguration(t *testing.T) {
	n := newNetwork(t)
	s := []*server{n.listen(), n.listen()}
	n.run(s[1], n.config(n.names()...))
	before, old := n.open(n.config(n.names()...), Site{Name: "site"})
	s[0].set(func(s *server) { s.cluster = before })
	first := before.current()

	after, fresh := n.open(n.config(n.names()...), Site{Name: "site"})
	if after != before || after.current() == first {
		t.Error("got another cluster, or the modules of the old configuration, want the same one with new modules")
	}
	_, rejected := n.open(n.config(n.names()...), Site{Name: "site"})
	rejected.Release()
	old.Release()
	if l := after.current(); l == nil || l == first {
		t.Error("got no modules, or those of the old configuration, want those of the new one")
	}
	// The cluster refreshes its list itself, and one lookup at a time is made.
	for deadline := time.Now().Add(20 * time.Second); len(*after.nodes.Load()) == 0 || after.node(t, s[1]).id() == ""; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("got no node within 20s, want one")
		}
	}
	if _, err := get(t, after.node(t, s[1])); err != nil {
		t.Errorf("got %v after a reload, want nil", err)
	}
	fresh.Release()
	select {
	case <-after.done:
	default:
		t.Error("got a running goroutine after the last configuration, want none")
	}
	if _, err := get(t, after.node(t, s[1])); err == nil {
		t.Error("got an answer after the last configuration, want an error")
	}
}

// TestClustersOfOtherSettings checks what distinguishes clusters.
func TestClustersOfOtherSettings(t *testing.T) {
	n := newNetwork(t)
	n.listen()
	site := Site{Name: "site", Keys: "keys", Cache: "cache"}
	base, _ := n.open(n.config("127.0.0.1:1", "localhost:2"), site)
	self, transport := n.config("127.0.0.1:1", "localhost:2"), n.config("127.0.0.1:1", "localhost:2")
	self.Self, transport.TransportRaw = "127.0.0.1:1", n.transport(`,"dial_timeout":1`)
	for name, row := range map[string]struct {
		config *Config
		site   Site
	}{
		"list":      {n.config("127.0.0.1:1"), site},
		"self":      {self, site},
		"transport": {transport, site},
		"site":      {n.config("127.0.0.1:1", "localhost:2"), Site{Name: "other", Keys: "keys", Cache: "cache"}},
		"keys":      {n.config("127.0.0.1:1", "localhost:2"), Site{Name: "site", Keys: "other", Cache: "cache"}},
		"cache":     {n.config("127.0.0.1:1", "localhost:2"), Site{Name: "site", Keys: "keys", Cache: "other"}},
	} {
		if c, _ := n.open(row.config, row.site); c == base || c.id == base.id {
			t.Errorf("%s: got the same cluster, want another one", name)
		}
	}
	if c, _ := n.open(n.config("[::ffff:127.0.0.1]:1", "LocalHost.:2"), site); c != base {
		t.Error("got another cluster for the same names written otherwise, want the same one")
	}
}

// TestSelf checks how a node finds its place: by its answer, by its configured name, or
// not at all, and with two names.
func TestSelf(t *testing.T) {
	n := newNetwork(t)
	s := []*server{n.listen(), n.listen(), n.listen(), n.listen(), n.listen()}
	for _, s := range s[1:] {
		n.run(s, n.config(n.names()...))
	}
	unreachable := n.names()
	unreachable[0] = "127.0.0.1:1" // of s[0], as the others reach it
	named := n.config(unreachable...)
	named.Self = unreachable[0]
	twice := append(n.names(), strings.Replace(s[0].name, "127.0.0.1", "localhost", 1))
	for name, row := range map[string]struct {
		config *Config
		self   []string // the names of this node
	}{
		"by its answer": {n.config(n.names()...), []string{s[0].name}},
		"by its name":   {named, []string{unreachable[0]}},
		"not in list":   {n.config(n.names()[1:]...), nil},
		"not found":     {n.config(unreachable...), nil},
		"twice":         {n.config(twice...), []string{s[0].name, twice[5]}},
	} {
		c := n.run(s[0], row.config)
		c.refresh(t.Context())
		for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			var want []string
			for _, node := range ranked(*c.nodes.Load(), key) {
				if slices.Contains(row.self, node.name) || len(want) == maxAhead {
					break
				}
				if node.id() != "" {
					want = append(want, node.name)
				}
			}
			if got := names(c.Ahead(key)); strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("%s: key %s: got %v ahead, want %v", name, key, got, want)
			}
		}
	}
}

// TestOneProcessWithTwoNames checks that another process that is listed twice is asked
// once for a key.
func TestOneProcessWithTwoNames(t *testing.T) {
	n := newNetwork(t)
	s := []*server{n.listen(), n.listen()}
	n.run(s[1], n.config(n.names()...))
	c := n.run(s[0], n.config(s[1].name, strings.Replace(s[1].name, "127.0.0.1", "localhost", 1)))
	c.refresh(t.Context())
	if got := names(c.Ahead("key")); len(got) != 1 {
		t.Errorf("got %v ahead, want one of the names", got)
	}
}

// TestLocalStorage checks which storages of keys are those of one machine.
func TestLocalStorage(t *testing.T) {
	for name, row := range map[string]struct {
		storage certmagic.Storage
		want    bool
	}{
		"default":        {caddy.DefaultStorage, true},
		"data directory": {&certmagic.FileStorage{Path: caddy.DefaultStorage.Path + "/."}, true},
		"shared":         {&certmagic.FileStorage{Path: t.TempDir()}, false},
		"module":         {struct{ certmagic.Storage }{}, false},
	} {
		if got := isLocal(row.storage); got != row.want {
			t.Errorf("%s: got %v, want %v", name, got, row.want)
		}
	}
}

// TestLoadErrors checks the errors about values that are known only when a
// configuration is loaded.
func TestLoadErrors(t *testing.T) {
	n := newNetwork(t)
	t.Setenv("PEERS_TEST_BAD", "https://node1")
	t.Setenv("PEERS_TEST_TWICE", "node1:1")
	for want, change := range map[string]func(*Config){
		"peers: to: ":       func(c *Config) { c.To = []string{"{env.PEERS_TEST_NOWHERE}"} },
		"listed twice":      func(c *Config) { c.To = []string{"node1:1", "{env.PEERS_TEST_TWICE}"} },
		"invalid node 'htt": func(c *Config) { c.To = []string{"{env.PEERS_TEST_BAD}"} },
		"peers: self: ":     func(c *Config) { c.Self = "{env.PEERS_TEST_BAD}" },
		"server name ''": func(c *Config) {
			c.TransportRaw = json.RawMessage(`{"protocol":"http","tls":{"server_name":"{env.PEERS_TEST_NOWHERE}"}}`)
		},
		"server name 'https://node1'": func(c *Config) {
			c.TransportRaw = json.RawMessage(`{"protocol":"http","tls":{"server_name":"{env.PEERS_TEST_BAD}"}}`)
		},
		"unknown module": func(c *Config) { c.To, c.DynamicRaw = nil, json.RawMessage(`{"source":"gossip"}`) },
		"no such file": func(c *Config) {
			c.TransportRaw = json.RawMessage(`{"protocol":"http","tls":{"server_name":"x","ca":{"provider":"file","pem_files":["/does/not/exist"]}}}`)
		},
	} {
		c := n.config("node1:1")
		change(c)
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		if err := c.load(ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
		cancel()
	}
}

// TestNoProxyFromEnvironment checks that connections to nodes use a proxy only if the
// transport names one.
func TestNoProxyFromEnvironment(t *testing.T) {
	n := newNetwork(t)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	for more, want := range map[string]bool{"": false, `,"network_proxy":{"from":"url","url":"http://proxy.internal:1"}`: true} {
		c := n.config("node1:1")
		c.TransportRaw = n.transport(more)
		if err := c.load(ctx); err != nil {
			t.Fatal(err)
		}
		if got := c.transport.RoundTripper.(*reverseproxy.HTTPTransport).Transport.Proxy != nil; got != want {
			t.Errorf("transport with %q: got a proxy %v, want %v", more, got, want)
		}
	}
}
