package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/breaker"
)

// answering makes a server answer authorized requests with a status, and returns the
// number of them.
func (s *server) answering(status int) *atomic.Int64 {
	requests := new(atomic.Int64)
	s.set(func(s *server) {
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			w.WriteHeader(status)
			if status == http.StatusOK {
				_, _ = io.WriteString(w, "content")
			}
		}
	})
	return requests
}

// blobs are those of the upstream of someAsk.
var blobs = passed{fingerprint: "f1", content: true}

// get asks a node and reads the whole answer.
func get(t *testing.T, n *Node) (string, error) {
	t.Helper()
	resp, err := n.Get(t.Context(), someAsk(), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// isAsked reports whether the cluster asks a node for some key.
func isAsked(c *Cluster, n *Node) bool {
	for i := range 100 {
		for _, ahead := range c.Ahead(fmt.Sprint(i)) {
			if ahead == n {
				return true
			}
		}
	}
	return false
}

// TestFailingNodeIsLeftAlone checks the pauses of a node whose answers are errors, and
// that one whole answer ends them.
func TestFailingNodeIsLeftAlone(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	c, node := s[0].current(), s[0].current().node(t, s[1])
	requests := s[1].answering(http.StatusInternalServerError)
	for i, pause := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		if _, err := get(t, node); err == nil || errors.Is(err, breaker.ErrOpen) || requests.Load() != int64(i+1) {
			t.Fatalf("failure %d: got %v after %d requests, want a status", i+1, err, requests.Load())
		}
		n.clock.advance(pause*time.Second - 1)
		c.refresh(t.Context()) // it answers the probe
		if _, err := get(t, node); !errors.Is(err, breaker.ErrOpen) || isAsked(c, node) {
			t.Errorf("failure %d: got %v within the pause of %ds, want ErrOpen", i+1, err, pause)
		}
		n.clock.advance(1)
	}
	s[1].answering(http.StatusOK)
	if got, err := get(t, node); err != nil || got != "content" || !isAsked(c, node) {
		t.Errorf("got %q, %v from a node that works again, want its content", got, err)
	}
	s[1].answering(http.StatusInternalServerError)
	_, _ = get(t, node)
	n.clock.advance(time.Second)
	if !isAsked(c, node) {
		t.Error("got a node left alone for more than 1s after a first failure, want 1s")
	}
	if fails := n.logs.FilterMessageSnippet("fails").Len(); fails != 2 {
		t.Errorf("got %d lines in the log about failures, want 2", fails)
	}
}

// TestStatusesOfNodes checks which answers count as failures of a node.
func TestStatusesOfNodes(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	node := s[0].current().node(t, s[1])
	for status, want := range map[int]struct{ ok, absent, failing bool }{
		200: {ok: true}, 204: {ok: true}, 206: {ok: true}, 304: {ok: true},
		404: {absent: true}, 409: {absent: true}, 502: {}, 504: {},
		301: {failing: true}, 400: {failing: true}, 403: {failing: true}, 429: {failing: true}, 500: {failing: true}, 503: {failing: true},
	} {
		s[1].answering(status)
		_, err := get(t, node)
		node.failed(blobs, err) // is not counted again
		if (err == nil) != want.ok || errors.Is(err, fs.ErrNotExist) != want.absent {
			t.Errorf("status %d: got %v, want ok %v, absent %v", status, err, want.ok, want.absent)
		}
		if failing := node.breaker.Open(); failing != want.failing {
			t.Errorf("status %d: got failing %v, want %v", status, failing, want.failing)
		}
		n.clock.advance(time.Second)
		if node.breaker.Open() {
			t.Errorf("status %d: counted more than once", status)
		}
		node.breaker.Succeed()
	}
}

// TestBodiesThatBreakOff checks that a node whose answers begin well and break off is
// left alone for longer each time, but not for other upstreams: the one whose content it
// passes on may be to blame.
func TestBodiesThatBreakOff(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	node := s[0].current().node(t, s[1])
	s[1].set(func(s *server) {
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	for i, pause := range []time.Duration{1, 2, 4} {
		got, err := get(t, node)
		if got != "half" || err == nil {
			t.Fatalf("got %q, %v, want an error after a half", got, err)
		}
		node.failed(blobs, err)
		n.clock.advance(pause*time.Second - 1)
		if _, err := get(t, node); !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("failure %d: got %v within the pause of %ds, want ErrOpen", i+1, err, pause)
		}
		other := someAsk()
		other.Fingerprint = "f2"
		if resp, err := node.Get(t.Context(), other, nil); err != nil {
			t.Errorf("failure %d: got %v for another upstream, want an answer", i+1, err)
		} else {
			_ = resp.Body.Close()
		}
		for _, kind := range []Kind{Manifest, Blob} { // HEAD says nothing about transfers
			other := someAsk()
			other.Kind = kind
			if resp, err := node.Head(t.Context(), other, nil); err != nil {
				t.Errorf("failure %d: got %v for a HEAD, want an answer", i+1, err)
			} else {
				_ = resp.Body.Close()
			}
		}
		if state := node.state(); state.State != Failing || state.Until.IsZero() || state.Error == "" {
			t.Errorf("failure %d: got the state %+v, want a failing node", i+1, state)
		}
		n.clock.advance(1)
	}
}

// TestCallersThatLeave checks that their errors do not count, except for an answer that
// took too long.
func TestCallersThatLeave(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	node := s[0].current().node(t, s[1])
	entered := make(chan struct{})
	s[1].set(func(s *server) {
		s.answer = func(_ http.ResponseWriter, r *http.Request) {
			entered <- struct{}{}
			<-r.Context().Done()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	_, err := node.Get(ctx, someAsk(), nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if node.failed(blobs, err); node.passingOn(blobs).Open() {
		t.Error("got a failing node after a caller left, want none")
	}
	if node.failed(blobs, context.DeadlineExceeded); !node.passingOn(blobs).Open() {
		t.Error("got no failing node after an answer took too long, want one")
	}
}

// TestRestartedNode checks that a node with a new process is not asked until it has
// said so, and then at once, even if the former process failed.
func TestRestartedNode(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	c, node := s[0].current(), s[0].current().node(t, s[1])
	before := node.id()
	n.run(s[1], n.config(n.names()...))
	if _, err := get(t, node); !errors.Is(err, errRestart) || isAsked(c, node) {
		t.Errorf("got %v from a new process, want errRestart", err)
	}
	select {
	case <-c.wake:
	default:
		t.Error("got no refresh requested, want one")
	}
	c.refresh(t.Context())
	if node.id() == before || !isAsked(c, node) {
		t.Error("got the new process not asked, want it known")
	}
	if _, err := get(t, node); err != nil {
		t.Errorf("got %v from the new process after a refresh, want nil", err)
	}
}

// TestNodesThatRefuseTokensAreLeftAlone checks that a node with other keys is not probed
// and asked again and again.
func TestNodesThatRefuseTokensAreLeftAlone(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	c, node := s[0].current(), s[0].current().node(t, s[1])
	n.clock.advance(0)
	s[1].set(func(s *server) { s.cluster.lent[0].Issuer = newNetwork(t).issuer() })
	if _, err := get(t, node); !errors.Is(err, errRestart) {
		t.Errorf("got %v, want errRestart", err)
	}
	c.refresh(t.Context())
	if node.id() == "" || isAsked(c, node) {
		t.Error("got the node asked again at once, want it left alone")
	}
}

// TestGetSendsHeader checks that the header of a request is sent, without changing that
// of the caller, and with the token of the node in place of any other.
func TestGetSendsHeader(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	got := make(chan http.Header, 1)
	s[1].set(func(s *server) { s.answer = func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Clone() } })
	header := http.Header{"Range": {"bytes=5-"}, "Authorization": {"Basic client"}}
	resp, err := s[0].current().node(t, s[1]).Get(t.Context(), someAsk(), header)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	sent := <-got
	if sent.Get("Range") != "bytes=5-" || sent.Get("Accept-Encoding") != "identity" || !strings.HasPrefix(sent.Get("Authorization"), "Bearer ey") {
		t.Errorf("got header %v, want the range, identity and a token", sent)
	}
	if len(header) != 2 || header.Get("Authorization") != "Basic client" {
		t.Errorf("got the caller's header changed to %v", header)
	}
}

// TestLargeHeader checks that an answer with a large header is a failure of the node.
func TestLargeHeader(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	c, node := s[0].current(), s[0].current().node(t, s[1])
	s[1].set(func(s *server) {
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Large", strings.Repeat("x", 2*maxHeader))
		}
	})
	if _, err := get(t, node); err == nil || errors.Is(err, fs.ErrNotExist) || isAsked(c, node) {
		t.Errorf("got the error %v, and whether the node is still asked: %v; want an error and false", err, isAsked(c, node))
	}
}
