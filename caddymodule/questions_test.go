package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestQuestionsOfAGroup: an upstream that does not answer is asked only so much for
// a group at a time, also if the clients do not wait. Another group's pull is not
// held up.
func TestQuestionsOfAGroup(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 50_000))
	s := start(t, users("alice", "bob"), private("red", "alice"), private("blue", "bob"), hub(up))
	token := s.token("alice")
	var now, most atomic.Int32
	gate := make(chan struct{})
	up.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "library/odd") {
			return false
		}
		n := now.Add(1)
		for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
		}
		select {
		case <-gate:
		case <-r.Context().Done():
		}
		now.Add(-1)
		return false
	})
	together(200, func(i int) {
		d := digest.FromString(fmt.Sprint(i))
		path := []string{manifestPath("red", "odd", string(d)), blobPath("red", "odd", d), "/v2/red" + infix + "odd/referrers/" + string(d)}[i%3]
		r, err := http.NewRequestWithContext(t.Context(), []string{http.MethodGet, http.MethodHead, http.MethodGet}[i%3], s.url+path, nil)
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		bearer(token)(r)
		if response, err := http.DefaultClient.Do(r.WithContext(ctx)); err == nil {
			_ = response.Body.Close()
		}
	})
	if n := most.Load(); n != mostQuestions {
		t.Errorf("upstream was asked %d things at once, want %d", n, mostQuestions)
	}
	begin := time.Now()
	pull(t, s, "blue", "alpine", "3.20", as("bob"))
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the other group's pull took %v", took)
	}
	close(gate)
	eventually(t, "nobody waits any more", func() bool { return now.Load() == 0 })
	pull(t, s, "red", "alpine", "3.20", bearer(token))
}

// TestQuestionsTakeTurns: turns are given back, and who cannot even wait for one is
// told so.
func TestQuestionsTakeTurns(t *testing.T) {
	var q questions
	red, blue := queueKey{"hub", "red"}, queueKey{"hub", "blue"}
	var turns []func()
	take := func(key queueKey) {
		t.Helper()
		done, err := q.take(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		turns = append(turns, done)
	}
	for range mostQuestions {
		take(red)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for range mostWaiting {
		waiting.Go(func() {
			if _, err := q.take(ctx, red); !errors.Is(err, errTooManyQuestions) {
				t.Errorf("a turn that nobody has given back: %v", err)
			}
		})
	}
	eventually(t, "all wait", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.queues[red].asked == mostQuestions+mostWaiting
	})
	if _, err := q.take(t.Context(), red); !errors.Is(err, errTooManyQuestions) {
		t.Errorf("one too many: %v", err)
	}
	take(blue)
	cancel()
	waiting.Wait()
	for _, done := range turns {
		done()
	}
	if len(q.queues) != 0 {
		t.Errorf("%d queues are left", len(q.queues))
	}
}
