package caddymodule

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/porttest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// peerNodes are three sites of one process that share the keys and have caches of their own.
// Each reaches the others through a connector that can be cut.
type peerNodes struct {
	t    testing.TB
	base *sitetest.Site
	all  []*peerNode
	cert string // file with the certificate and the key of all nodes
}

// peerNode is one of the sites, with a client that trusts its certificate.
type peerNode struct {
	*sitetest.Site
	handler *Handler
	link    *sitetest.Connector // of the other nodes to this one
}

// startNodes starts three nodes with the given lines.
func startNodes(t testing.TB, lines ...string) *peerNodes {
	t.Helper()
	return startDifferentNodes(t, "filesystem $CACHE {\nreserve off\n}", func(int) string { return strings.Join(lines, "\n") })
}

// startDifferentNodes starts three nodes with a storage and with lines of their own.
func startDifferentNodes(t testing.TB, storage string, lines func(i int) string) *peerNodes {
	t.Helper()
	base := sitetest.NewSite(t)
	c := &peerNodes{t: t, base: base}
	roots, file, cert := sitetest.Certificate(t, base.Dir)
	c.cert = cert
	var to []string
	for i := range 3 {
		n := newPeerNode(t, base.Dir, i, porttest.Reserve(t), roots)
		to = append(to, n.link.Addr().String())
		c.all = append(c.all, n)
	}
	text := strings.ReplaceAll(nodesOptions, "$DIR", base.Dir)
	for i, n := range c.all {
		text += strings.NewReplacer("$URL", n.URL, "$CERT", cert, "$CA", file, "$TO", strings.Join(to, " "), "$LINES", lines(i),
			"$STORAGE", strings.ReplaceAll(storage, "$CACHE", n.Cache)).Replace(nodeSite)
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	if err == nil {
		err = sitetest.LoadCaddy(t, config)
	}
	if err != nil {
		t.Fatal(err)
	}
	base.Running = true
	c.findHandlers()
	return c
}

// newPeerNode returns a node that is not running yet and will listen at an address.
func newPeerNode(t testing.TB, dir string, i int, address string, roots *x509.CertPool) *peerNode {
	s := &sitetest.Site{T: t, Dir: dir, Cache: filepath.Join(dir, fmt.Sprintf("cache%d", i))}
	port := sitetest.PortOf(address)
	s.Host = sitetest.ClusterHost + ":" + port
	s.URL = "https://" + s.Host
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	s.Client = &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{
		DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}, DisableCompression: true, MaxIdleConnsPerHost: 32,
	}}
	t.Cleanup(s.Client.CloseIdleConnections)
	return &peerNode{Site: s, link: sitetest.Connect(t, address)}
}

// nodesOptions are the global options of the nodes, and nodeSite is the site of one.
const (
	nodesOptions = `{
	admin off
	persist_config off
	auto_https off
	storage file_system $DIR/storage
	storage_check off
	storage_clean_interval off
	log {
		output file $DIR/caddy.log
		level DEBUG
	}
}
`
	nodeSite = `
$URL {
	bind 127.0.0.1
	tls $CERT $CERT
	log
	dependency_proxy {
		storage $STORAGE
		peers {
			to $TO
			transport http {
				tls_server_name registry.example.com
				tls_trust_pool file $CA
			}
		}
		$LINES
	}
}
`
)

// findHandlers sets the handlers of the nodes, and waits until all nodes know each other.
func (c *peerNodes) findHandlers() {
	c.t.Helper()
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, n := range c.all {
		port := sitetest.PortOf(n.Host)
		for _, server := range app.(*caddyhttp.App).Servers {
			if strings.HasSuffix(server.Listen[0], ":"+port) {
				n.handler = handlerIn(server.Routes)
			}
		}
	}
	sitetest.Eventually(c.t, "the nodes know each other", func() bool {
		for _, n := range c.all {
			known := n.handler.cluster.State().Nodes
			if len(known) != len(c.all) {
				return false
			}
			for _, other := range known {
				if other.State != peers.Up && other.State != peers.Self {
					return false
				}
			}
		}
		return true
	})
}

// inPeersBucket returns the lines of a storage in a bucket.
func inPeersBucket(t testing.TB, server *s3test.Server) string {
	return "s3 {\n" + sitetest.InBucket(t, server).Bucket + "\nlocal $CACHE {\nreserve off\n}\n}"
}

// ranked returns the nodes in the order in which they are responsible for content of the
// first upstream.
func (c *peerNodes) ranked(d digest.Digest) []*peerNode {
	order := make([]*peerNode, len(c.all))
	for _, n := range c.all {
		u := n.handler.Upstreams[0]
		order[len(n.handler.cluster.Ahead(u.sourceFor("acme").Endpoint+" "+d.String()))] = n
	}
	return order
}
