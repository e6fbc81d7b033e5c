//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cluster is several proxies with one key storage and one upstream.
type cluster struct {
	dir       string
	cert, key string       // files
	up        *front       // upstream
	bucket    *objectStore // nil without one
	peers     bool         // whether the nodes ask each other
	freshFor  string       // how long tags are fresh
	more      string       // further lines of each site

	mu    sync.Mutex
	nodes []*node // without the load balancer
	front *node   // the load balancer, nil without one
}

// node is a proxy of a cluster, or its load balancer, which has number 0.
type node struct {
	*proxy
	number int

	// lives counts the starts and the ends of the node: it is up while the number is
	// odd. It changes before the node is stopped and after it has been started.
	lives atomic.Int32
}

// newCluster returns a cluster without nodes.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{dir: t.TempDir(), freshFor: "2s"}
	var err error
	names := make([]string, maxNodes)
	for n := range names {
		names[n] = nodeName(n + 1)
	}
	c.cert, c.key, err = lab.authority.issueFiles(c.dir, clusterName, names...)
	must(t, err)
	c.up, err = newFront("127.0.0.1:0", "http://"+plainRegistry, nil, "")
	must(t, err)
	t.Cleanup(c.up.stop)
	return c
}

// startCluster starts nodes with a bucket, if it is not nil, that ask each other, if
// peers is set.
func startCluster(t *testing.T, bucket *objectStore, peers bool, nodes int) *cluster {
	t.Helper()
	c := newCluster(t)
	c.bucket, c.peers = bucket, peers
	for range nodes {
		c.node(t)
	}
	c.launch(t, c.nodes...)
	return c
}

// body returns the lines of the site of a node. Guests may not pull what is in secret/.
func (c *cluster) body() string {
	body := lab.accounts() + upstreamBlock("docker.io", "http://"+c.up.address, "fresh_for "+c.freshFor) + `
group acme {
	members alice
}
group guests {
	members bob
	deny docker.io/secret/**
}
` + c.more
	if c.peers {
		body += peerLines()
	}
	return body
}

// node adds a node that is not started yet.
func (c *cluster) node(t *testing.T) *node {
	t.Helper()
	n := len(c.nodes) + 1
	if n > maxNodes {
		t.Fatalf("there are addresses for %d nodes", maxNodes)
	}
	p := &proxy{
		dir: filepath.Join(c.dir, nodeName(n)), caddy: lab.caddy, roots: lab.roots,
		admin: fmt.Sprintf("127.0.0.1:%d", 9000+nextPort.Add(2)), host: nodeName(n),
		globals: "auto_https disable_redirects\n\tdefault_bind " + nodeAddr(n) + "\n\tstorage file_system " + filepath.Join(c.dir, "keys"),
		sites: fmt.Sprintf("%s, %s, https://%s:%d {\n\ttls %s %s\n\timport proxy\n}\n",
			clusterName, nodeName(n), clusterName, peerPort, c.cert, c.key),
	}
	p.cache = filepath.Join(p.dir, "cache")
	if c.bucket != nil {
		p.bucket = c.bucket.lines()
	}
	x := &node{proxy: p, number: n}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, x)
	return x
}

// launch starts nodes at once. They run until the test ends.
func (c *cluster) launch(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		must(t, n.start(c.body()))
		t.Cleanup(n.process.kill)
		n.showOnFailure(t)
		t.Cleanup(func() {
			if state, err := n.remote(); t.Failed() && c.bucket != nil {
				t.Logf("%s says of its bucket: %+v, %v", n.host, state, err)
			}
		})
	}
	for _, n := range nodes {
		must(t, n.ready(n.serves))
		n.lives.Add(1)
	}
}

// any returns one of the nodes, or the load balancer.
func (c *cluster) any() *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := len(c.nodes)
	if c.front != nil {
		all++
	}
	if n := rand.IntN(all); n < len(c.nodes) {
		return c.nodes[n]
	}
	return c.front
}

const balancerConfig = `{
	admin off
	auto_https disable_redirects
	default_bind %s
}
%s {
	tls %s %s
	reverse_proxy %s {
		lb_policy round_robin
		lb_try_duration 5s
		fail_duration 2s
		header_up Host {host}
		transport http {
			tls_server_name %[2]s
		}
	}
}
`

// balance starts a load balancer, a Caddy, in front of all nodes, also those that are
// not started yet.
func (c *cluster) balance(t *testing.T) {
	t.Helper()
	var all []string
	for n := range maxNodes {
		all = append(all, "https://"+nodeAddr(n+1))
	}
	p := &proxy{dir: filepath.Join(c.dir, "balancer"), caddy: lab.caddy, roots: lab.roots, host: clusterName}
	must(t, os.MkdirAll(p.dir, 0o755))
	must(t, os.WriteFile(p.config(), fmt.Appendf(nil, balancerConfig, clusterAddr, clusterName, c.cert, c.key, strings.Join(all, " ")), 0o644))
	var err error
	p.process, err = startProcess(p.dir, "balancer", plainEnv(p.dir), p.caddy, "run", "--config", p.config(), "--adapter", "caddyfile")
	must(t, err)
	t.Cleanup(p.process.kill)
	p.showOnFailure(t)
	x := &node{proxy: p}
	must(t, p.ready(x.serves))
	x.lives.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.front = x
}

// serves returns an error unless the node answers requests.
func (n *node) serves() error {
	got, err := lab.client().Get("https://" + n.host + "/v2/")
	if err != nil {
		return err
	}
	defer got.Body.Close()
	if got.StatusCode != http.StatusUnauthorized {
		return errors.New(got.Status)
	}
	return nil
}

// kill kills a node.
func (n *node) kill() {
	n.lives.Add(1)
	n.process.kill()
}

// stop stops a node, which completes what it is doing.
func (n *node) stop() {
	n.lives.Add(1)
	n.process.stop()
}

// remote is what the admin API says of the bucket.
type remote struct {
	Blobs      int    `json:"blobs_to_upload"`
	Records    int    `json:"records_to_upload"`
	ReadError  string `json:"read_error"`
	WriteError string `json:"write_error"`
}

// remote asks a node for the state of its uploads.
func (n *node) remote() (remote, error) {
	got, err := http.Get("http://" + n.admin + "/dependency_proxy/status")
	if err != nil {
		return remote{}, err
	}
	defer got.Body.Close()
	var status struct{ Caches []struct{ Remote *remote } }
	if err := json.NewDecoder(got.Body).Decode(&status); err != nil {
		return remote{}, err
	}
	if len(status.Caches) != 1 || status.Caches[0].Remote == nil {
		return remote{}, errors.New("the status names no bucket")
	}
	return *status.Caches[0].Remote, nil
}

// awaitUploads waits until nodes have uploaded all that they have.
func awaitUploads(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		must(t, n.readyWithin(time.Minute, func() error {
			state, err := n.remote()
			if err == nil && (state.Blobs+state.Records > 0 || state.ReadError+state.WriteError != "") {
				err = fmt.Errorf("the bucket: %+v", state)
			}
			return err
		}))
	}
}

// proxies returns the proxies of nodes, for clients to log in.
func proxies(nodes ...*node) []*proxy {
	var all []*proxy
	for _, n := range nodes {
		all = append(all, n.proxy)
	}
	return all
}

// wantSecretsHidden reports an error if a log or a running configuration shows the
// secret of the bucket.
func (c *cluster) wantSecretsHidden(t *testing.T) {
	t.Helper()
	for _, n := range c.nodes {
		if strings.Contains(n.output(), bucketSecret) {
			t.Errorf("the log of %s shows the secret of the bucket", n.host)
		}
		got, err := http.Get("http://" + n.admin + "/config/")
		must(t, err)
		if strings.Contains(string(readAll(t, got)), bucketSecret) {
			t.Errorf("the running configuration of %s shows the secret of the bucket", n.host)
		}
	}
}

// wantSound reports an error unless all that nodes have stored has its digest.
func (c *cluster) wantSound(t *testing.T) {
	t.Helper()
	for _, n := range c.nodes {
		wantSound(t, n.cache)
	}
}
