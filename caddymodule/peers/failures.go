package peers

import (
	"context"
	"errors"
	"io/fs"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/breaker"
)

// maxPassing is the greatest number of upstreams for which the failures of a node are
// remembered.
const maxPassing = 64

func (c *Cluster) newNode(name string) *Node {
	passing, err := lru.New[string, *breaker.Breaker](maxPassing)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &Node{name: name, cluster: c, breaker: *c.newBreaker(), passing: passing}
}

func (c *Cluster) newBreaker() *breaker.Breaker {
	return &breaker.Breaker{Pause: firstPause, MaxPause: lastPause, Now: c.now}
}

// passingOn returns the breaker for what the node passes on from the upstream with a
// fingerprint.
func (n *Node) passingOn(fingerprint string) *breaker.Breaker {
	if b, ok := n.passing.Get(fingerprint); ok {
		return b
	}
	b := n.cluster.newBreaker()
	if before, ok, _ := n.passing.PeekOrAdd(fingerprint, b); ok {
		return before
	}
	return b
}

// Failed records that a response with content of the upstream with a fingerprint was too
// slow, broke off or was wrong. The node may have passed on what the upstream has sent, so
// it is left alone for this upstream only, and probed soon. Failed ignores the errors that
// Get has counted, and those that say nothing about the node.
func (n *Node) Failed(fingerprint string, err error) {
	if err == nil || errors.As(err, new(*failure)) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, context.Canceled) {
		return
	}
	n.note(n.passingOn(fingerprint), err)
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
