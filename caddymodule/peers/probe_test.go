package peers

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestServersThatAreNoNodes checks that other servers in the list are never asked for
// content, and that the reason is known.
func TestServersThatAreNoNodes(t *testing.T) {
	n := newNetwork(t)
	for range 2 {
		n.listen()
	}
	c := n.run(n.servers[0], n.config(n.names()...))
	node := func() *Node { c.refresh(t.Context()); return c.node(t, n.servers[1]) }
	answer := func(contentType, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = io.WriteString(w, text)
		}
	}
	id := `{"id":"` + strings.Repeat("A", 26) + `"}`
	for name, row := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"absent":      {http.NotFound, "status 404"},
		"failing":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "status 500"},
		"redirect":    {http.RedirectHandler("https://"+n.servers[0].name+ProbePath, http.StatusFound).ServeHTTP, "status 302"},
		"HTML":        {answer("text/html", id), "not JSON"},
		"no type":     {answer("", id), "not JSON"},
		"other JSON":  {answer("application/json", `{"status":"ok"}`), "no id"},
		"list":        {answer("application/json", `[]`), "no id"},
		"short id":    {answer("application/json", `{"id":"A"}`), "no id"},
		"lower case":  {answer("application/json", strings.ToLower(id)), "no id"},
		"long answer": {answer("application/json", `{"id":"`+strings.Repeat("A", 1<<20)+`"}`), "no id"},
		"broken":      {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		n.servers[1].set(func(s *server) { s.handler = row.handler })
		node := node()
		if node.id() != "" || node.err == nil || !strings.Contains(node.err.Error(), row.want) || isAsked(c, node) {
			t.Errorf("%s: got id %q, error %v, want an error with %q", name, node.id(), node.err, row.want)
		}
		if _, err := get(t, node); !errors.Is(err, errUnknown) {
			t.Errorf("%s: got %v, want errUnknown", name, err)
		}
	}
	n.servers[1].set(func(s *server) { s.handler = answer("application/json; charset=utf-8", id) })
	if node := node(); node.id() == "" || !isAsked(c, node) {
		t.Errorf("got error %v for a node, want none", node.err)
	}
}

// TestHangingServerEndsItsProbe checks that an entry that accepts connections and says
// nothing does not hold up the others.
func TestHangingServerEndsItsProbe(t *testing.T) {
	n := newNetwork(t)
	for range 3 {
		n.listen()
	}
	n.servers[1].set(func(s *server) { s.handler = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() } })
	c := n.run(n.servers[0], n.config(n.names()...))
	n.run(n.servers[2], n.config(n.names()...))
	c.times.probe = 200 * time.Millisecond
	c.refresh(t.Context())
	if node := c.node(t, n.servers[1]); !errors.Is(node.err, context.DeadlineExceeded) {
		t.Errorf("got %v, want context.DeadlineExceeded", node.err)
	}
	if node := c.node(t, n.servers[2]); node.id() == "" || !isAsked(c, node) {
		t.Errorf("got %v for the other node, want it known", node.err)
	}
}

// TestForeignCertificates checks that a server without a certificate of the authority
// for the server name is no node, and gets no token.
func TestForeignCertificates(t *testing.T) {
	n := newNetwork(t)
	trusted := n.ca
	n.listen()
	_, n.cert = authority(t, serverName)
	n.listen()
	n.run(n.servers[1], n.config(n.names()...))
	n.ca = trusted
	c := n.run(n.servers[0], n.config(n.names()...))
	c.refresh(t.Context())
	if node := c.node(t, n.servers[1]); node.id() != "" || node.err == nil || !strings.Contains(node.err.Error(), "certificate") {
		t.Errorf("got id %q, error %v, want one about the certificate", node.id(), node.err)
	}
}

// TestManyFailuresAtOnceCountOnce checks that the requests that are under way when a
// node begins to fail do not make its pause longer.
func TestManyFailuresAtOnceCountOnce(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	node := s[0].current().node(t, s[1])
	var arrived sync.WaitGroup
	arrived.Add(20)
	s[1].set(func(s *server) {
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			arrived.Done()
			arrived.Wait()
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := get(t, node); err == nil {
				t.Error("got no error, want one")
			}
		})
	}
	all.Wait()
	n.clock.advance(time.Second)
	if node.breaker.Open() {
		t.Error("got a pause of more than 1s after failures at once, want 1s")
	}
}

// TestLostProbe checks that a node that misses one probe is still asked and soon probed
// again, and that one that misses two is not asked until it answers.
func TestLostProbe(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	c, node := s[0].current(), s[0].current().node(t, s[1])
	lose := func(s *server) { s.handler = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) } }
	for range 2 {
		s[1].set(lose)
		c.refresh(t.Context())
		if state := node.state(); !isAsked(c, node) || state.State != Up || state.Error != "" {
			t.Errorf("got the state %+v after one probe was lost, want a node that is up and asked", state)
		}
		select {
		case <-c.wake:
		default:
			t.Error("got no refresh requested after one probe was lost, want one")
		}
		s[1].set(func(s *server) { s.handler = nil })
		if _, err := get(t, node); err != nil {
			t.Errorf("got %v from a node after one probe was lost, want nil", err)
		}
		c.refresh(t.Context())
	}
	s[1].set(lose)
	for range 2 {
		c.refresh(t.Context())
	}
	if state := node.state(); isAsked(c, node) || state.State != Down || state.Error == "" {
		t.Errorf("got the state %+v after two probes were lost, want a node that is down and not asked", state)
	}
	if lines := n.logs.FilterMessageSnippet("does not answer").Len(); lines != 1 {
		t.Errorf("got %d lines in the log about nodes that do not answer, want 1", lines)
	}
}

// TestDeadNodeIsNoticedByRequests checks that a node that has died is left alone after the
// first request to it, before any probe.
func TestDeadNodeIsNoticedByRequests(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	c, node := s[0].current(), s[0].current().node(t, s[1])
	s[1].Close()
	if _, err := get(t, node); err == nil || isAsked(c, node) {
		t.Errorf("got the error %v, and asked %v; want an error, and the node left alone", err, isAsked(c, node))
	}
}
