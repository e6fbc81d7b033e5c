package peers

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
)

// names returns the names of nodes.
func names(nodes []*Node) (list []string) {
	for _, n := range nodes {
		list = append(list, n.Name())
	}
	return list
}

// TestNodesAskThoseAhead checks that three nodes agree about the order of each key, and
// that each asks those before it.
func TestNodesAskThoseAhead(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(3)
	owners := make(map[string]int)
	for i := range 100 {
		key := fmt.Sprintf("key %d", i)
		order := names(ranked(*s[0].current().nodes.Load(), key))
		owners[order[0]]++
		for _, node := range s {
			place := slices.Index(order, node.name)
			if got, want := names(node.current().Ahead(key)), order[:place]; !slices.Equal(got, want) {
				t.Errorf("%s: got %v ahead of the node at place %d, want %v", key, got, place, want)
			}
		}
	}
	if len(owners) != 3 {
		t.Errorf("got owners %v, want three", owners)
	}
}

// TestGetReachesAnotherNode checks that each node can ask each other one, and that the
// other one learns what is asked.
func TestGetReachesAnotherNode(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(3)
	for _, from := range s {
		for _, to := range s {
			if from == to {
				continue
			}
			resp, err := from.current().node(t, to).Get(t.Context(), someAsk(), nil)
			if err != nil {
				t.Fatalf("got %v, want nil", err)
			}
			var got Ask
			if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || !got.IsOf(someAsk()) || got.Reference != someAsk().Reference || got.From != from.current().id {
				t.Errorf("got %+v, %v, want the ask", got, err)
			}
			_ = resp.Body.Close()
		}
	}
}
