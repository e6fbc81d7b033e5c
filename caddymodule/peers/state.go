package peers

import (
	"strings"
	"time"
)

// Condition says whether a node is asked.
type Condition string

// The conditions of a node.
const (
	Self    Condition = "self"    // it is this process
	Up      Condition = "up"      // it answers
	Failing Condition = "failing" // it says who it is, but has failed since its last whole answer
	Down    Condition = "down"    // it does not say who it is, so it is not asked
)

// Conditions are all conditions of a node.
var Conditions = []Condition{Self, Up, Failing, Down}

// State is what a node knows of the others.
type State struct {
	// Nodes are those of the list, in its order.
	Nodes []NodeState `json:"nodes"`

	// Error is why the last lookup of the list failed, or empty.
	Error string `json:"error,omitempty"`
}

// NodeState is what is known of a node.
type NodeState struct {
	Name  string    `json:"name"` // HOST:PORT
	State Condition `json:"state"`

	// Answered is when the node last said who it is, or zero.
	Answered time.Time `json:"answered,omitzero"`

	// Until is when a failing node is asked again, possibly for one upstream that it does
	// not pass on well, or zero if it is asked now.
	Until time.Time `json:"until,omitzero"`

	// Error is the last failure of a node that is failing or down.
	Error string `json:"error,omitempty"`
}

// State returns the state of the nodes, or nil for a nil Cluster.
func (c *Cluster) State() *State {
	if c == nil {
		return nil
	}
	s := &State{Nodes: []NodeState{}}
	c.mu.Lock()
	if c.listErr != nil {
		s.Error = c.listErr.Error()
	}
	c.mu.Unlock()
	for _, n := range *c.nodes.Load() {
		s.Nodes = append(s.Nodes, n.state())
	}
	return s
}

func (n *Node) state() NodeState {
	n.mu.Lock()
	process, seen, err := n.process, n.seen, n.err
	n.mu.Unlock()
	s := NodeState{Name: n.name, State: Up}
	if !seen.IsZero() {
		s.Answered = seen.UTC()
	}
	failing := n.failing()
	switch {
	case process == n.cluster.id || n.name == n.cluster.self:
		s.State = Self
		return s
	case process == "":
		s.State = Down
		if err == nil {
			err = errUnknown
		}
	case failing.Err != nil:
		s.State, err = Failing, failing.Err
		if n.cluster.now().Before(failing.Until) {
			s.Until = failing.Until.UTC()
		}
	}
	if s.State != Up {
		s.Error = short(err)
	}
	return s
}

// maxError is the greatest length of an error in a state.
const maxError = 500

// short returns the text of an error, without what a server may have made long.
func short(err error) string {
	text := err.Error()
	return strings.ToValidUTF8(text[:min(len(text), maxError)], "")
}
