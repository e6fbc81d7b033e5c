package peers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// times are those of a cluster. All clusters have the usual ones, except in tests.
type times struct {
	refresh time.Duration // the longest between two refreshes of the list, each of which probes all nodes
	soonest time.Duration // the shortest, at the beginning and if a node may have restarted
	lookup  time.Duration // the limit of a lookup of the list
	probe   time.Duration // the limit of a probe
}

var usual = times{refresh: 10 * time.Second, soonest: time.Second, lookup: 5 * time.Second, probe: 2 * time.Second}

const (
	// closeTimeout limits the wait for the last refresh.
	closeTimeout = 10 * time.Second

	// maxAhead is the greatest number of nodes that are asked for one key.
	maxAhead = 3

	// maxProbes is the greatest number of nodes that are probed at once.
	maxProbes = 8
)

// Site is what a [Cluster] needs to know of the site.
type Site struct {
	Name string

	// Keys and Cache identify Caddy's storage and that of the content. Sites of a
	// process with the same name, keys, cache and settings of peers share a Cluster.
	Keys, Cache string

	// Issuer mints and verifies the tokens of requests between nodes.
	Issuer *tokenissuer.Issuer

	// Logger returns the present logger of the process.
	Logger func() *zap.Logger
}

// Cluster is the nodes of a site. It outlives a configuration if the next one has the
// same settings. A nil Cluster has no nodes. Its methods may be called concurrently.
type Cluster struct {
	id     string // of this process, for this site
	site   string
	self   string // the name of this node, if it is configured
	logger func() *zap.Logger
	now    func() time.Time
	times  times
	nodes  atomic.Pointer[[]*Node]
	wake   chan struct{}
	stop   context.CancelFunc
	done   chan struct{}

	looking atomic.Bool  // a lookup is in progress
	serving atomic.Int64 // requests of other nodes that are being answered

	refusals *rate.Limiter // of lines in the audit log about requests that are not admitted
	unlogged atomic.Int64  // requests without such a line since the last one

	mu      sync.Mutex
	lent    []*lent // by the configurations that use the cluster, newest last
	listErr error   // of the last lookup
}

// lent is what a configuration lends to a cluster. Its modules end with the
// configuration, even if another one continues to use the cluster.
type lent struct {
	Site
	source    lister
	transport *transport
}

// clusters outlive a configuration.
var clusters = pool.New((*Cluster).close)

// Open returns the cluster of a site, which the lease has until it is released. It
// neither looks up the list of nodes nor asks them: a goroutine does that, which ends
// with the last lease. Open returns nil if c is nil.
func (c *Config) Open(lease *pool.Lease, site Site) (*Cluster, error) {
	if c == nil {
		return nil, nil
	}
	key := fmt.Sprintf("%q %q %q %s", site.Name, site.Keys, site.Cache, c.settings)
	l := &lent{site, c.source, c.transport}
	cluster, err := clusters.Acquire(lease, key, func() (*Cluster, error) {
		cluster, ctx := newCluster(l, c.self, time.Now)
		go cluster.keep(ctx)
		return cluster, nil
	})
	if err != nil {
		return nil, err
	}
	cluster.lend(l)
	*lease = append(*lease, func() { cluster.takeBack(l) })
	return cluster, nil
}

// newCluster returns a cluster that does not refresh its list yet, and a context that
// ends when it is closed.
func newCluster(l *lent, self string, now func() time.Time) (*Cluster, context.Context) {
	ctx, stop := context.WithCancel(context.Background())
	c := &Cluster{
		id: rand.Text(), site: l.Name, self: self, logger: l.Logger, now: now, times: usual,
		wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{}),
		refusals: rate.NewLimiter(rate.Every(refusalEvery), maxRefusals),
	}
	c.nodes.Store(new([]*Node))
	c.lend(l)
	return c, ctx
}

func (c *Cluster) close() {
	c.stop()
	select {
	case <-c.done:
	case <-time.After(closeTimeout):
	}
}

// lend makes the cluster use what the newest configuration has.
func (c *Cluster) lend(l *lent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.lent, l) {
		c.lent = append(c.lent, l)
	}
}

func (c *Cluster) takeBack(l *lent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lent = slices.DeleteFunc(c.lent, func(other *lent) bool { return other == l })
}

// current returns what the newest configuration has lent, or nil after the last one.
func (c *Cluster) current() *lent {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lent) == 0 {
		return nil
	}
	return c.lent[len(c.lent)-1]
}

// Ahead returns the nodes that this one asks for a key, in order: those that are ranked
// before it, answer, and do not fail, at most 3. A node that does not find itself in
// the list asks the first ones. All nodes that have the same list rank it in the same
// way. Ahead does no I/O.
func (c *Cluster) Ahead(key string) []*Node {
	if c == nil {
		return nil
	}
	var ahead []*Node
	var asked []string
	for _, n := range ranked(*c.nodes.Load(), key) {
		id := n.id()
		if n.name == c.self || id == c.id || len(ahead) == maxAhead {
			break
		}
		if id == "" || slices.Contains(asked, id) || n.breaker.Open() {
			continue
		}
		ahead, asked = append(ahead, n), append(asked, id)
	}
	return ahead
}

// keep refreshes the list until ctx ends. It begins before this process listens, and
// while other nodes may start too, so the first pauses are shorter.
func (c *Cluster) keep(ctx context.Context) {
	defer close(c.done)
	for pause := c.times.soonest; ; pause = min(2*pause, c.times.refresh) {
		c.refresh(ctx)
		if !wait(ctx, c.times.soonest, nil) || !wait(ctx, pause-c.times.soonest, c.wake) {
			return
		}
	}
}

// wait waits for a time or until it is woken. It reports false when ctx has ended.
func wait(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// probeSoon refreshes the list before its time.
func (c *Cluster) probeSoon() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// refresh updates the list and probes its nodes.
func (c *Cluster) refresh(ctx context.Context) {
	l := c.current()
	if l == nil {
		return // the last configuration ends
	}
	names, err := c.lookUp(ctx, l.source)
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	failed := err != nil && c.listErr == nil
	c.listErr = err
	c.mu.Unlock()
	if failed {
		c.logger().Warn("cannot look up the nodes of the cluster; using the former list", zap.Error(err))
	}
	if err == nil {
		c.setNodes(names)
	}
	// Minting a token reads the keys from the storage now and then. No pull has to wait for
	// that if it is done here.
	_, _ = l.Issuer.MintPeer(ctx, c.id, "maintenance")
	var probes sync.WaitGroup
	slots := make(chan struct{}, maxProbes)
	for _, n := range *c.nodes.Load() {
		slots <- struct{}{}
		probes.Go(func() {
			defer func() { <-slots }()
			n.probe(ctx, l)
		})
	}
	probes.Wait()
}

// setNodes changes the list. Nodes that remain keep their state.
func (c *Cluster) setNodes(names []string) {
	before := *c.nodes.Load()
	nodes := make([]*Node, len(names))
	for i, name := range names {
		if at := slices.IndexFunc(before, func(n *Node) bool { return n.name == name }); at >= 0 {
			nodes[i] = before[at]
		} else {
			nodes[i] = c.newNode(name)
		}
	}
	c.nodes.Store(&nodes)
}

var (
	errLooking = errors.New("the former lookup has not ended")
	errEmpty   = errors.New("the list is empty")
)

// lookUp asks for the list. A module that ignores its context holds up one lookup, and
// neither the probes nor the end of the cluster.
func (c *Cluster) lookUp(ctx context.Context, source lister) ([]string, error) {
	if !c.looking.CompareAndSwap(false, true) {
		return nil, errLooking
	}
	ctx, cancel := context.WithTimeout(ctx, c.times.lookup)
	defer cancel()
	type result struct {
		names []string
		err   error
	}
	results := make(chan result, 1)
	go func() {
		names, err := source.list(ctx)
		if err == nil && len(names) == 0 {
			err = errEmpty
		}
		c.looking.Store(false)
		results <- result{names, err}
	}()
	select {
	case r := <-results:
		return r.names, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
