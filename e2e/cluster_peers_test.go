//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// peerPort is the port at which the nodes ask each other. Clients use another one.
const peerPort = 8443

// peerLines returns the lines that name the nodes to each other.
func peerLines() string {
	var all []string
	for n := range maxNodes {
		all = append(all, fmt.Sprintf("%s:%d", nodeAddr(n+1), peerPort))
	}
	return fmt.Sprintf("peers {\n\tto %s\n\ttransport http {\n\t\ttls_server_name %s\n\t}\n}\n", strings.Join(all, " "), clusterName)
}

// TestPeersWithoutBucket pulls through three nodes that only ask each other. Upstream
// sends everything once.
func TestPeersWithoutBucket(t *testing.T) {
	c := newCluster(t)
	c.peers, c.freshFor = true, "1h"
	for range 3 {
		c.node(t)
	}
	c.launch(t, c.nodes...)
	c.awaitPeers(t)
	img := lab.push.index(t, "library/between-nodes", "1", 1<<20, 12<<20)
	mine := loggedInto(t, proxies(c.nodes...)...)
	c.up.forget()
	for _, n := range c.nodes {
		cranePull(t, mine, n.reference("acme", img), img)
	}
	c.up.wantOnce(t, img.blobs())
	heads := 0
	for _, r := range c.up.requests() {
		if r.method == http.MethodHead && strings.HasSuffix(r.path, "/manifests/1") {
			heads++
		}
	}
	if heads > 2 { // a busy owner may not have answered one of the others in time
		t.Errorf("upstream was asked %d times about the tag", heads)
	}
	c.wantSound(t)
}

// TestOwnerKilled kills the node that downloads a layer for all while each node sends
// it to clients. The clients of the others get all of it, and upstream sends it at most
// once more.
func TestOwnerKilled(t *testing.T) {
	c := startCluster(t, startBucket(t), true, 3)
	c.awaitPeers(t)
	img := lab.push.single(t, "library/owned", "1", 48<<20)
	layer := img.layers[0].String()
	token := clusterToken(t, clientOf(1), "alice")
	for n := range c.nodes {
		l := load{clients: clients()}
		_, err := l.get(t.Context(), c.nodes[n], manifestPath("acme", shortName(img), "1"), token, img.digest)
		must(t, err)
	}
	c.up.forget()
	c.up.rate.Store(4 << 20)
	results := make(chan result)
	for n := range c.nodes {
		for range 2 {
			go func() { results <- downloadFrom(n+1, token, img, layer) }()
		}
	}
	owner := c.owner(t, layer)
	t.Logf("%s downloads for all", owner.host)
	await(t, func() error {
		if sent := c.up.bytesOf(layer); sent < 8<<20 {
			return fmt.Errorf("upstream has sent %d bytes", sent)
		}
		return nil
	})
	owner.kill()
	c.up.rate.Store(16 << 20)
	for range 2 * len(c.nodes) {
		got := <-results
		switch {
		case got.node == owner.number && got.err == nil:
			t.Errorf("a download from the killed node ended with %s", got.digest)
		case got.node != owner.number && got.err != nil:
			t.Errorf("node %d: after %d bytes: %v", got.node, got.bytes, got.err)
		case got.node != owner.number && got.digest != img.layers[0]:
			t.Errorf("node %d sent %s", got.node, got.digest)
		}
	}
	size := storedSize(t, layer)
	sent, starts := c.up.bytesOf(layer), c.up.blobs()[layer]
	t.Logf("upstream sent %.2f times the size, from the beginning %d times", float64(sent)/float64(size), starts)
	if sent > 2*size+size/4 || starts > 2 {
		t.Errorf("upstream sent %d bytes of a layer of %d, from the beginning %d times", sent, size, starts)
	}
	c.up.rate.Store(0)
	c.launch(t, owner)
	if got := downloadFrom(owner.number, token, img, layer); got.digest != img.layers[0] {
		t.Errorf("the killed node sends after its start: %+v", got)
	}
	c.wantSound(t)
}

// result is how a download ended.
type result struct {
	node   int
	digest digest.Digest
	bytes  int64
	err    error
}

// downloadFrom downloads a blob through a node, without another try.
func downloadFrom(n int, token string, img image, blob string) result {
	got := result{node: n}
	request, err := http.NewRequest(http.MethodGet, "https://"+clusterName+blobPath("acme", shortName(img), blob), nil)
	if err != nil {
		got.err = err
		return got
	}
	request.Header.Set("Authorization", "Bearer "+token)
	client := clientOf(n)
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		got.err = err
		return got
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		got.err = fmt.Errorf("%s", answer.Status)
		return got
	}
	body := &countingReader{Reader: answer.Body}
	got.digest, got.err = digest.FromReader(body)
	got.bytes = body.bytes
	return got
}

// owner waits until a blob is requested from upstream and returns the node that did.
func (c *cluster) owner(t *testing.T, blob string) (owner *node) {
	t.Helper()
	await(t, func() error {
		for _, r := range c.up.requests() {
			if r.method != http.MethodGet || !strings.HasSuffix(r.path, blob) {
				continue
			}
			_, port, err := net.SplitHostPort(r.from)
			must(t, err)
			out, err := runFor(patience, plainEnv(c.dir), "ss", "--tcp", "--numeric", "--processes", "--no-header", "sport = :"+port)
			must(t, err)
			for _, n := range c.nodes {
				if strings.Contains(out, fmt.Sprintf("pid=%d,", n.cmd.Process.Pid)) {
					owner = n
					return nil
				}
			}
		}
		return errors.New("no node has asked upstream")
	})
	return owner
}

// TestPeersPartitioned drops all packets to one node from the others, then all between
// nodes, and then stops a node without ending it, while clients pull through all of
// them. No pull fails, but for those of the stopped node.
func TestPeersPartitioned(t *testing.T) {
	c := startCluster(t, startBucket(t), true, 3)
	c.awaitPeers(t)
	l := startLoad(t, c)
	mine := loggedInto(t, proxies(c.nodes...)...)
	pullAll := func(tag string, nodes ...*node) {
		for _, n := range nodes {
			img := lab.push.single(t, "library/partitioned", fmt.Sprintf("%s-%d", tag, n.number), 1<<20, 3<<20)
			for _, n := range nodes {
				cranePull(t, mine, n.reference("acme", img), img)
			}
		}
	}
	healOne := isolateNodes(t, nodeAddr(1))
	pullAll("one", c.nodes...)
	healAll := isolateNodes(t, nodeAddr(2), nodeAddr(3))
	pullAll("all", c.nodes...)
	healOne()
	healAll()
	frozen := c.nodes[2]
	frozen.lives.Add(1)
	frozen.freeze()
	pullAll("frozen", c.nodes[:2]...)
	frozen.thaw()
	must(t, frozen.ready(frozen.serves))
	frozen.lives.Add(1)
	pullAll("healed", c.nodes...)
	l.stop()
	c.wantSound(t)
}

// isolateNodes drops the packets of connections between nodes to some of them, until
// the returned function is called.
func isolateNodes(t *testing.T, addresses ...string) (heal func()) {
	t.Helper()
	rules := func(do string) {
		for _, address := range addresses {
			port := fmt.Sprint(peerPort)
			command(t, "iptables", "--wait", do, "INPUT", "--proto", "tcp", "--destination", address, "--dport", port, "--jump", "DROP")
			command(t, "iptables", "--wait", do, "INPUT", "--proto", "tcp", "--source", address, "--sport", port, "--jump", "DROP")
		}
	}
	rules("--append")
	healed := false
	heal = func() {
		if !healed {
			healed = true
			rules("--delete")
		}
	}
	t.Cleanup(heal)
	return heal
}

// awaitPeers waits until each node that is up knows the others that are.
func (c *cluster) awaitPeers(t *testing.T) {
	t.Helper()
	up := 0
	for _, n := range c.nodes {
		up += int(n.lives.Load() % 2)
	}
	for _, n := range c.nodes {
		if n.lives.Load()%2 == 1 {
			must(t, n.ready(func() error { return n.knows(up - 1) }))
		}
	}
}

// knows returns an error unless the node knows so many others that are up.
func (n *node) knows(others int) error {
	got, err := http.Get("http://" + n.admin + "/dependency_proxy/status")
	if err != nil {
		return err
	}
	defer got.Body.Close()
	var status struct {
		Sites []struct {
			Peers struct{ Nodes []struct{ State string } }
		}
	}
	if err := json.NewDecoder(got.Body).Decode(&status); err != nil {
		return err
	}
	for _, site := range status.Sites {
		up := 0
		for _, other := range site.Peers.Nodes {
			if other.State == "up" {
				up++
			}
		}
		if up != others {
			return fmt.Errorf("%s knows %d other nodes, want %d: %+v", n.host, up, others, site.Peers.Nodes)
		}
	}
	return nil
}

// countingReader counts the bytes that were read.
type countingReader struct {
	io.Reader
	bytes int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.bytes += int64(n)
	return n, err
}
