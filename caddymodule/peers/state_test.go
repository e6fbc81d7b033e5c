package peers

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// TestState checks what is shown of nodes in each condition.
func TestState(t *testing.T) {
	if s := (*Cluster)(nil).State(); s != nil {
		t.Errorf("got %+v without peers, want nil", s)
	}
	n := newNetwork(t)
	s := n.cluster(5)
	c := s[0].current()
	s[2].answering(http.StatusServiceUnavailable)
	_, _ = get(t, c.node(t, s[2]))
	s[3].set(func(s *server) { s.handler = http.NotFound })
	s[4].Close()
	began := n.clock.Now()
	n.clock.advance(time.Second / 2)
	for range maxMisses {
		c.refresh(t.Context())
	}
	c.listErr = errEmpty
	now := n.clock.Now().UTC()
	got := c.State()
	if got.Error != errEmpty.Error() || len(got.Nodes) != 5 {
		t.Fatalf("got %+v, want five nodes and the error of the list", got)
	}
	for i, want := range []NodeState{
		{State: Self, Answered: now},
		{State: Up, Answered: now},
		{State: Failing, Answered: now, Until: began.Add(time.Second).UTC(), Error: "status 503"},
		{State: Down, Answered: began.UTC(), Error: "status 404"},
		{State: Down, Answered: began.UTC(), Error: "refused"},
	} {
		want.Name = s[i].name
		node := got.Nodes[i]
		if !strings.Contains(node.Error, want.Error) {
			t.Errorf("got error %q of node %d, want one with %q", node.Error, i, want.Error)
		}
		if node.Error = want.Error; node != want {
			t.Errorf("got %+v of node %d, want %+v", node, i, want)
		}
		if !slices.Contains(Conditions, node.State) {
			t.Errorf("got %s, which is not in Conditions", node.State)
		}
	}
	n.clock.advance(time.Second)
	if node := c.State().Nodes[2]; node.State != Failing || !node.Until.IsZero() {
		t.Errorf("got %+v after the pause, want a failing node that is asked now", node)
	}
	if text := short(errors.New(strings.Repeat("ä", 1000))); len(text) > maxError || !utf8.ValidString(text) {
		t.Errorf("got a text of %d bytes, want valid UTF-8 of at most %d", len(text), maxError)
	}
}
