//go:build unix

package blobcache_test

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestReadersTakeTurns checks that readers whose spool fails in the middle continue from the
// source, and that no more of them read from it at once than the limit of the group allows.
func TestReadersTakeTurns(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, gate := e.source(random(60, 400_000)), make(chan struct{})
		s.answer = midway(s, 200_000, func() {
			<-gate
			readOnly(t, e.store.spool.Load())
		})
		ask := e.asker("hub", "red", fill.SourceLimits{Fills: 4, GroupFills: 2})
		var all sync.WaitGroup
		for range 7 {
			all.Go(func() {
				r, err := ask(s)
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Close()
				e.same(r, s.content)
			})
		}
		synctest.Wait()
		close(gate)
		all.Wait()
		if s.most > 2 {
			t.Errorf("got %d bodies of the source open at once, want at most 2", s.most)
		}
	})
}
