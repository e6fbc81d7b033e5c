package peers

import (
	"context"
	"errors"
	"io/fs"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/breaker"
)

// maxPassing is the greatest number of breakers that a node has for what it passes on: two
// for each upstream.
const maxPassing = 128

func (c *Cluster) newNode(name string) *Node {
	passing, err := lru.New[passed, *breaker.Breaker](maxPassing)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &Node{name: name, cluster: c, breaker: *c.newBreaker(), passing: passing}
}

func (c *Cluster) newBreaker() *breaker.Breaker {
	return &breaker.Breaker{Pause: firstPause, MaxPause: lastPause, Now: c.now}
}

// passed is what a node passes on from the upstream with a fingerprint: the content of blobs,
// or other answers. They have breakers of their own, because a network that loses large
// packets stops the content of blobs while short answers succeed.
type passed struct {
	fingerprint string
	content     bool
}

// passingOn returns the breaker for what the node passes on.
func (n *Node) passingOn(what passed) *breaker.Breaker {
	if b, ok := n.passing.Get(what); ok {
		return b
	}
	b := n.cluster.newBreaker()
	if before, ok, _ := n.passing.PeekOrAdd(what, b); ok {
		return before
	}
	return b
}

// failed records that a response was too slow, broke off or was wrong. The cause may be the
// upstream, so the node is left alone for the same kind of answer from this upstream only,
// and probed soon. It ignores errors that Get has counted, and those that say nothing about
// the node.
func (n *Node) failed(what passed, err error) {
	if err == nil || errors.As(err, new(*failure)) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, context.Canceled) {
		return
	}
	n.note(n.passingOn(what), err)
	n.cluster.probeSoon()
}

// note counts a failure.
func (n *Node) note(b *breaker.Breaker, err error) {
	if b.Fail(err) {
		n.cluster.logger().Warn("a node of the cluster fails; asking it less often", zap.String("node", n.name), zap.Error(err))
	}
}

// succeeded notes a good answer. If content of an upstream has come, passing is its breaker.
func (n *Node) succeeded(passing *breaker.Breaker) {
	recovered := n.breaker.Succeed()
	if passing != nil && passing.Succeed() || recovered {
		n.cluster.logger().Info("a node of the cluster that failed answers again", zap.String("node", n.name))
	}
}

// failing returns the state of the breaker of the node or, unless it fails, that of one of an
// upstream.
func (n *Node) failing() breaker.State {
	state := n.breaker.State()
	for _, b := range n.passing.Values() {
		if state.Err != nil {
			break
		}
		state = b.State()
	}
	return state
}
