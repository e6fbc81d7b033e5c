package pullthrough

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

// ringNode is a process of a ring as the one before it asks it.
type ringNode struct {
	*node
	name  string
	begun *sync.WaitGroup // all processes have asked the next one; nil for one after the other
}

// Fetch implements [fill.Replica].
func (n *ringNode) Fetch(ctx context.Context, d digest.Digest, offset, length int64) (*fill.Body, error) {
	if n.begun != nil {
		n.begun.Done()
		n.begun.Wait()
	}
	return n.node.Fetch(ctx, d, offset, length)
}

// TestPeersInARing checks that processes that ask each other in a ring, each for a client of
// its own, do not wait for each other, and that one of them asks upstream.
func TestPeersInARing(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 50_000)
	image := up.PutImage("team/app", "1", layer)
	names := []string{"b", "c", "a"}
	var processes []*fixture
	var all []*ringNode
	var begun, pulls sync.WaitGroup
	for _, name := range names {
		f := newFixtureAt(t, up.Endpoint(), dial.NewTransport(dial.TransportConfig{AllowPrivate: true}))
		processes, all = append(processes, f), append(all, &ringNode{node: new(node), name: name, begun: &begun})
	}
	for i, n := range all {
		asker := names[(i+len(names)-1)%len(names)]
		n.of = processes[i].repository("red", "team/app", func(c *Config) {
			c.OfPeer = func(p fill.Replica, answered bool) bool { return Circular(asker, n.name, p.(*ringNode).name, answered) }
		})
	}
	begun.Add(len(all))
	begin := time.Now()
	for i := range all {
		r := processes[i].repository("red", "team/app", asking(all[(i+1)%len(all)]))
		pulls.Go(func() {
			if err := pullAll(t.Context(), r, image.Layers[0], layer); err != nil {
				t.Error(err)
			}
		})
	}
	pulls.Wait()
	if took := time.Since(begin); took > peerPatience-time.Second {
		t.Errorf("the pulls took %v, want less than %v: the processes have waited for each other", took, peerPatience-time.Second)
	}
	if got := up.Counts().BlobGet; got != 1 {
		t.Errorf("got %d GETs, want 1", got)
	}
}

// gonePeer is a peer that does not have the content, and says so when it is closed.
type gonePeer struct {
	Peer
	closed chan struct{}
}

// Fetch implements [fill.Replica].
func (p *gonePeer) Fetch(ctx context.Context, _ digest.Digest, _, _ int64) (*fill.Body, error) {
	select {
	case <-p.closed:
	case <-ctx.Done():
	}
	return nil, fs.ErrNotExist
}

// TestPeersInALateRing checks that processes do not wait for each other that form a ring only
// when each has given up another peer, while the one before it waits already.
func TestPeersInALateRing(t *testing.T) {
	permute([]byte("abc"), 0, func(names []byte) {
		up := registrytest.New(t)
		layer := random(1, 50_000)
		image := up.PutImage("team/app", "1", layer)
		var processes []*fixture
		var all []*ringNode
		var gone []*gonePeer
		var pulls sync.WaitGroup
		for _, name := range names {
			processes = append(processes, newFixtureAt(t, up.Endpoint(), dial.NewTransport(dial.TransportConfig{AllowPrivate: true})))
			all = append(all, &ringNode{node: new(node), name: string(name)})
			gone = append(gone, &gonePeer{closed: make(chan struct{})})
		}
		for i, n := range all {
			asker := string(names[(i+len(names)-1)%len(names)])
			n.of = processes[i].repository("red", "team/app", func(c *Config) {
				c.OfPeer = func(p fill.Replica, answered bool) bool {
					next, ok := p.(*ringNode)
					return ok && Circular(asker, n.name, next.name, answered)
				}
			})
			r := processes[i].repository("red", "team/app", asking(gone[i], all[(i+1)%len(all)]))
			pulls.Go(func() {
				if err := pullAll(t.Context(), r, image.Layers[0], layer); err != nil {
					t.Errorf("%s: %v", names, err)
				}
			})
			eventually(t, "it asks the one that is gone", func() bool { return len(processes[i].config.Cache.Fills()) == 1 })
		}
		begin := time.Now()
		for i := range all {
			close(gone[i].closed)
			if next := processes[(i+1)%len(all)]; i+1 < len(all) {
				eventually(t, "the next one is asked", func() bool {
					fills := next.config.Cache.Fills()
					return len(fills) == 1 && fills[0].Readers == 2
				})
			}
		}
		pulls.Wait()
		if took := time.Since(begin); took > peerPatience-time.Second {
			t.Errorf("%s: the pulls took %v: the processes have waited for each other", names, took)
		}
	})
}

// pullAll pulls a blob and compares its content.
func pullAll(ctx context.Context, r *Repository, d digest.Digest, want []byte) error {
	reader, _, err := r.Blob(ctx, d)
	if err != nil {
		return err
	}
	defer reader.Close()
	got, err := io.ReadAll(reader)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("got %d bytes, want %d", len(got), len(want))
	}
	return err
}

// TestCircular checks that in each ring of processes, whatever their names, one process does
// not make the one before it wait, and that requests may wait for a peer that has answered.
func TestCircular(t *testing.T) {
	names := "abcde"
	for size := 2; size <= len(names); size++ {
		permute([]byte(names[:size]), 0, func(ring []byte) {
			refused := 0
			for i := range ring {
				if Circular(string(ring[i]), string(ring[(i+1)%size]), string(ring[(i+2)%size]), false) {
					refused++
				}
			}
			if refused == 0 {
				t.Errorf("in the ring %s every request may wait, want one that must not", ring)
			}
		})
	}
	for _, peer := range []string{"a", "z"} {
		if Circular("b", "m", peer, true) {
			t.Errorf("a request must not wait for what the peer %s sends, want that it may, since the peer has answered", peer)
		}
	}
	if !Circular("a", "m", "a", true) {
		t.Error("a process may wait for itself, want that it must not")
	}
}

// permute calls f with all permutations of what follows the first k names.
func permute(names []byte, k int, f func([]byte)) {
	if k == len(names) {
		f(names)
	}
	for i := k; i < len(names); i++ {
		names[k], names[i] = names[i], names[k]
		permute(names, k+1, f)
		names[k], names[i] = names[i], names[k]
	}
}
