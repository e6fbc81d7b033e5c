package peers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	_ "github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

const serverName = "registry.example.com"

// clock is a clock that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1800000000, 0)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// network is some nodes on the loopback that share the keys, with a certificate
// authority.
type network struct {
	t       *testing.T
	clock   *clock
	keys    string // directory
	ca      string // file with the certificate of the authority
	cert    tls.Certificate
	logs    *observer.ObservedLogs
	logger  *zap.Logger
	servers []*server
}

// server is a node: a server for https, and its cluster.
type server struct {
	*httptest.Server
	name    string
	mu      sync.Mutex
	cluster *Cluster
	answer  http.HandlerFunc // to authorized requests; the ask as JSON by default
	handler http.HandlerFunc // instead of all of this
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	n := &network{t: t, clock: newClock(), keys: t.TempDir(), logs: logs, logger: zap.New(core)}
	n.ca, n.cert = authority(t, serverName)
	return n
}

// authority returns a file with the certificate of an authority, and a certificate of
// it for a name.
func authority(t *testing.T, name string) (file string, cert tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: root.NotBefore, NotAfter: root.NotAfter, DNSNames: []string{name},
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}
}

// listen starts a server without a cluster.
func (n *network) listen() *server {
	n.t.Helper()
	s := new(server)
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = zap.NewStdLog(n.logger)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{n.cert}}
	s.StartTLS()
	n.t.Cleanup(s.Close)
	s.name = s.Listener.Addr().String()
	n.servers = append(n.servers, s)
	return s
}

// names returns the names of all servers.
func (n *network) names() (names []string) {
	for _, s := range n.servers {
		names = append(names, s.name)
	}
	return names
}

// config returns the configuration of a node with a list.
func (n *network) config(to ...string) *Config {
	return &Config{To: to, TransportRaw: n.transport("")}
}

// transport returns the transport of nodes, with more members.
func (n *network) transport(more string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"protocol":"http","tls":{"server_name":%q,"ca":{"provider":"file","pem_files":[%q]}}%s}`, serverName, n.ca, more))
}

// issuer returns the issuer of another node. It knows the keys, so that it does not look
// for them, or create one, while the test ends and removes them.
func (n *network) issuer() *tokenissuer.Issuer {
	n.t.Helper()
	issuer := tokenissuer.New(tokenissuer.Config{Storage: &certmagic.FileStorage{Path: n.keys}, Now: n.clock.Now})
	if _, err := issuer.MintPeer(n.t.Context(), "process", "facts"); err != nil {
		n.t.Fatal(err)
	}
	return issuer
}

// run makes a server a node with a new process, which refreshes its list when told to.
func (n *network) run(s *server, c *Config) *Cluster {
	n.t.Helper()
	return n.runSite(s, c, "site")
}

func (n *network) runSite(s *server, c *Config, site string) *Cluster {
	n.t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: n.t.Context()})
	n.t.Cleanup(cancel)
	if err := c.Check(); err != nil {
		n.t.Fatal(err)
	}
	if err := c.load(ctx); err != nil {
		n.t.Fatal(err)
	}
	l := &lent{Site{Name: site, Issuer: n.issuer(), Logger: func() *zap.Logger { return n.logger }}, c.source, c.transport}
	cluster, _ := newCluster(l, c.self, n.clock.Now)
	n.t.Cleanup(cluster.stop)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster = cluster
	return cluster
}

// cluster starts nodes that list each other, and probes them.
func (n *network) cluster(count int) []*server {
	n.t.Helper()
	for range count {
		n.listen()
	}
	for _, s := range n.servers {
		n.run(s, n.config(n.names()...))
	}
	n.refresh()
	return n.servers
}

// refresh refreshes the lists of all nodes.
func (n *network) refresh() {
	for _, s := range n.servers {
		if c := s.current(); c != nil {
			c.refresh(n.t.Context())
		}
	}
}

func (s *server) current() *Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cluster
}

// set changes how the server answers.
func (s *server) set(change func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	cluster, answer, handler := s.cluster, s.answer, s.handler
	s.mu.Unlock()
	switch {
	case handler != nil:
		handler(w, r)
		return
	case cluster == nil || r.Host != serverName:
		http.NotFound(w, r)
		return
	case r.URL.EscapedPath() == ProbePath:
		cluster.ServeProbe(w)
		return
	}
	ask, err := cluster.authorize(r)
	if err != nil {
		http.Error(w, err.Error(), StatusOf(err))
		return
	}
	if answer != nil {
		answer(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(ask)
}

// node returns the node of s in the list of the cluster.
func (c *Cluster) node(t *testing.T, s *server) *Node {
	t.Helper()
	for _, n := range *c.nodes.Load() {
		if n.name == s.name {
			return n
		}
	}
	t.Fatalf("got no node %s in the list, want one", s.name)
	return nil
}
