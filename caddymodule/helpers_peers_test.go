package caddymodule

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// clusterHost is the host name of all nodes.
const clusterHost = "registry.example.com"

// peerNodes are three sites of one process that share the keys and have caches of their own.
// Each reaches the others through a connector that can be cut.
type peerNodes struct {
	t    testing.TB
	base *site
	all  []*peerNode
	cert string // file with the certificate and the key of all nodes
}

// peerNode is one of the sites, with a client that trusts its certificate.
type peerNode struct {
	*site
	handler *Handler
	link    *connector // of the other nodes to this one
}

// startNodes starts three nodes with the given lines.
func startNodes(t testing.TB, lines ...string) *peerNodes {
	t.Helper()
	return startDifferentNodes(t, "filesystem $CACHE {\nreserve off\n}", func(int) string { return strings.Join(lines, "\n") })
}

// startDifferentNodes starts three nodes with a storage and with lines of their own.
func startDifferentNodes(t testing.TB, storage string, lines func(i int) string) *peerNodes {
	t.Helper()
	base := newSite(t)
	c := &peerNodes{t: t, base: base}
	roots, file, cert := certificate(t, base.dir)
	c.cert = cert
	var to []string
	var held []net.Listener
	for i := range 3 {
		s := &site{t: t, dir: base.dir, cache: filepath.Join(base.dir, fmt.Sprintf("cache%d", i))}
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, free) // no connector may take the port
		address := free.Addr().String()
		_, port, _ := net.SplitHostPort(address)
		s.host = clusterHost + ":" + port
		s.url = "https://" + s.host
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
		s.client = &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{
			DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}, DisableCompression: true, MaxIdleConnsPerHost: 32,
		}}
		t.Cleanup(s.client.CloseIdleConnections)
		link := connect(t, address)
		to = append(to, link.Addr().String())
		c.all = append(c.all, &peerNode{site: s, link: link})
	}
	text := strings.NewReplacer("$DIR", base.dir).Replace(`{
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
`)
	for i, n := range c.all {
		text += strings.NewReplacer("$URL", n.url, "$CERT", cert, "$CA", file, "$TO", strings.Join(to, " "), "$LINES", lines(i), "$STORAGE", strings.ReplaceAll(storage, "$CACHE", n.cache)).Replace(`
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
`)
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	for _, free := range held {
		_ = free.Close()
	}
	if err == nil {
		err = caddy.Load(config, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	base.running = true
	c.findHandlers()
	return c
}

// findHandlers sets the handlers of the nodes, and waits until all nodes know each other.
func (c *peerNodes) findHandlers() {
	c.t.Helper()
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, n := range c.all {
		_, port, _ := net.SplitHostPort(n.host)
		for _, server := range app.(*caddyhttp.App).Servers {
			if strings.HasSuffix(server.Listen[0], ":"+port) {
				n.handler = handlerIn(server.Routes)
			}
		}
	}
	eventually(c.t, "the nodes know each other", func() bool {
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
	return "s3 {\n" + inBucket(t, server).bucket + "\nlocal $CACHE {\nreserve off\n}\n}"
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

// connector passes connections on to a node, until it is told not to.
type connector struct {
	net.Listener
	address string

	mu    sync.Mutex
	open  map[net.Conn]bool
	hangs bool
}

func connect(t testing.TB, address string) *connector {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &connector{Listener: listener, address: address, open: make(map[net.Conn]bool)}
	t.Cleanup(c.cut)
	go c.accept()
	return c
}

func (c *connector) accept() {
	for {
		in, err := c.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		address := c.address
		c.mu.Unlock()
		out, err := net.Dial("tcp", address)
		if err != nil {
			_ = in.Close()
			continue
		}
		c.mu.Lock()
		c.open[in], c.open[out] = true, true
		c.mu.Unlock()
		go c.pass(in, out)
		go c.pass(out, in)
	}
}

// pass copies what one side sends to the other one.
func (c *connector) pass(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		c.mu.Lock()
		hangs := c.hangs
		c.mu.Unlock()
		if err == nil && !hangs {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			_, _ = to.Close(), from.Close()
			return
		}
	}
}

// cut closes the listener and all connections, as if the node had been killed.
func (c *connector) cut() {
	_ = c.Close()
	c.lead("")
}

// lead closes all connections. The next ones lead to another address.
func (c *connector) lead(address string) {
	c.mu.Lock()
	c.address = address
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.Close()
	}
}

// hang makes the node swallow what is sent to it, and send nothing.
func (c *connector) hang() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangs = true
}

// certificate returns the roots with a new authority, a file with its certificate, and
// one with a key and a certificate for all nodes.
func certificate(t testing.TB, dir string) (roots *x509.CertPool, authority, leaf string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, DNSNames: []string{clusterHost},
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(public)
	authority, leaf = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "node.pem")
	for name, content := range map[string][]byte{authority: public, leaf: append(public, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return roots, authority, leaf
}
