//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// TestRollingRestart starts a fourth node, and then restarts all nodes one after the
// other with a new configuration, while clients pull through each node and through a
// load balancer, some of them with crane. No pull fails, but for those through a node
// that is being restarted.
func TestRollingRestart(t *testing.T) {
	bucket := startBucket(t)
	c := startCluster(t, bucket, true, 3)
	c.balance(t)
	mine := loggedInto(t, c.front.proxy)
	l := startLoad(t, c)
	fourth := c.node(t)
	c.launch(t, fourth)
	time.Sleep(time.Second)
	c.more = "group later {\n\tmembers carol\n}\n"
	for _, n := range c.nodes {
		img := lab.push.single(t, "library/meanwhile", fmt.Sprint(n.number), 1<<20, 3<<20)
		took := make(chan time.Duration)
		go func() {
			began := time.Now()
			n.stop()
			took <- time.Since(began)
		}()
		cranePull(t, mine, c.front.reference("acme", img), img)
		if took := <-took; took >= stopPatience {
			t.Errorf("%s does not stop within %v", n.host, took)
		}
		c.launch(t, n)
	}
	img := lab.push.single(t, "library/rolled", "1", 1<<20)
	for n := range c.nodes {
		token := clusterToken(t, clientOf(n+1), "carol")
		if _, err := l.get(t.Context(), c.nodes[n], manifestPath("later", shortName(img), "1"), token, img.digest); err != nil {
			t.Errorf("with the new configuration: %v", err)
		}
	}
	l.stop()
	c.wantSound(t)
	c.wantSecretsHidden(t)
}

// TestRollingUpgrade runs a node of the last version without clusters, one with a
// bucket, and one with a bucket and peers on one key storage for a while. Then the
// first is upgraded on its own cache, which it uploads.
func TestRollingUpgrade(t *testing.T) {
	bucket := startBucket(t)
	c := newCluster(t)
	old, alone, last := c.node(t), c.node(t), c.node(t)
	old.caddy = lab.single
	c.launch(t, old)
	c.bucket = bucket
	alone.bucket, last.bucket = bucket.lines(), bucket.lines()
	c.launch(t, alone)
	c.peers = true
	c.launch(t, last)
	l := startLoad(t, c)
	mine := loggedInto(t, proxies(old, alone, last)...)
	early := lab.push.single(t, "library/upgraded-node", "1", 1<<20, 2<<20)
	for _, n := range []*node{old, alone, last} {
		cranePull(t, mine, n.reference("acme", early), early)
	}
	only := lab.push.single(t, "library/upgraded-node", "2", 1<<20)
	cranePull(t, mine, old.reference("acme", only), only)
	time.Sleep(time.Second)
	old.stop()
	old.caddy, old.bucket = lab.caddy, bucket.lines()
	c.launch(t, old)
	bucket.await(t, only)
	awaitUploads(t, old)
	l.stop()
	c.up.stop()
	for _, n := range []*node{old, alone, last} {
		cranePull(t, mine, n.name("acme", only)+"@"+only.digest.String(), only)
		cranePull(t, mine, n.reference("acme", early), early)
	}
	c.wantSound(t)
	c.wantSecretsHidden(t)
}

// TestNodeKilled kills a node with SIGKILL again and again while clients pull through
// all of them, and through a load balancer.
func TestNodeKilled(t *testing.T) {
	bucket := startBucket(t)
	c := startCluster(t, bucket, true, 3)
	l := startLoad(t, c)
	for _, n := range append(c.nodes, c.nodes...) {
		time.Sleep(700 * time.Millisecond)
		n.kill()
		time.Sleep(200 * time.Millisecond)
		c.launch(t, n)
	}
	l.stop()
	awaitUploads(t, c.nodes...)
	for _, n := range c.nodes {
		bucket.wantAll(t, n.cache)
	}
	c.wantSound(t)
}
