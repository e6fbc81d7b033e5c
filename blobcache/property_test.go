package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
)

var (
	seed   = flag.Uint64("seed", 0, "first seed of the property test, as logged by a failure; 0 for a random one")
	worlds = flag.Uint64("worlds", 25, "number of seeds that the property test tries")
)

// TestCacheProperty checks the cache with random clients, sources and disk faults, during
// evictions, purges and scrubs. A body that a client reads to its end without an error must
// be the content. When all clients are done, no reserved space, no content without an
// owner, no temporary file and no goroutine may be left.
func TestCacheProperty(t *testing.T) {
	first, whole := *seed, 0
	if first == 0 {
		first = rand.Uint64() >> 16
	}
	for n := first; n < first+*worlds; n++ {
		ok := t.Run(fmt.Sprintf("seed=%d", n), func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				w := &world{env: e, rnd: rand.New(rand.NewPCG(n, 1)), replicas: make(map[*source][]*replica), peers: make(map[*source][]*replica)}
				w.bound()
				w.breakDisk()
				w.keep(w.run)
				whole += w.whole
			})
		})
		if !ok {
			t.Fatalf("seed %d failed; run it again with: go test -run TestCacheProperty ./blobcache -seed %d -worlds 1", n, n)
		}
	}
	if whole == 0 && *worlds > 1 {
		t.Error("got 0 bodies read to their end, want at least 1")
	}
}

// world is an env whose sources, clients and disk fail at random. All of its goroutines
// share one random generator, so a seed gives the same numbers, but not always to the same
// goroutine.
type world struct {
	*env
	limits          blobcache.Limits
	index           *index.Index
	quotas          *blobcache.Quotas
	vandals         bool // content is removed or cut without the cache
	worn            bool // spools may fail while they are written or read
	replicas, peers map[*source][]*replica

	mu     sync.Mutex
	rnd    *rand.Rand
	whole  int        // bodies that were read to their end
	spools []*os.File // all spools that were opened
}

// chance returns true once in n calls, on average.
func (w *world) chance(n int) bool { return w.upTo(n) == 0 }

// upTo returns a random number in [0,n).
func (w *world) upTo(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rnd.IntN(n)
}

// run starts the clients of three sources and waits for them.
func (w *world) run() {
	var all sync.WaitGroup
	for range 3 {
		size := []int{0, 1, 2, 1000, 200_000, 1_500_000}[w.upTo(6)]
		s := w.source(random(uint64(w.upTo(1000)), size))
		s.connections = w.upTo(5)
		s.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
			return w.answer(ctx, s, offset, length)
		}
		for _, kind := range []map[*source][]*replica{w.replicas, w.peers} {
			for range w.upTo(3) {
				kind[s] = append(kind[s], w.faulty(s))
			}
		}
		for range 1 + w.upTo(12) {
			late := time.Duration(w.upTo(3000)) * time.Millisecond
			all.Go(func() {
				time.Sleep(late)
				w.client(s)
			})
		}
		if w.chance(3) {
			w.vandals = true
			all.Go(func() { w.vandal(s) })
		}
	}
	all.Wait()
}

// breakDisk makes some calls of the store fail, in some worlds.
func (w *world) breakDisk() {
	if w.chance(4) {
		w.store.onCommit = func() error { return w.maybe(2) }
	}
	dear := w.chance(4)
	w.worn = w.chance(2)
	w.store.onSpool = func(spool *os.File) error {
		if w.worn {
			w.wear(spool)
		}
		if dear {
			return w.maybe(2)
		}
		return nil
	}
	if w.chance(4) {
		w.store.onRemove = func() error { return w.maybe(2) }
	}
}

// maybe returns an error once in n calls, on average.
func (w *world) maybe(n int) error {
	if w.chance(n) {
		return errors.New("disk error of the test")
	}
	return nil
}

// vandal removes or truncates the stored content of s, bypassing the cache.
func (w *world) vandal(s *source) {
	for range 5 {
		time.Sleep(time.Duration(w.upTo(2000)) * time.Millisecond)
		if w.chance(2) {
			_ = os.Remove(w.path(s.digest))
		} else {
			_ = os.WriteFile(w.path(s.digest)+".cut", s.content[:len(s.content)/2], 0o600)
			_ = os.Rename(w.path(s.digest)+".cut", w.path(s.digest))
		}
	}
}

// answer returns a random answer of the source: the range asked for, wrong bytes or an
// error.
func (w *world) answer(ctx context.Context, s *source, offset, length int64) (*fill.Body, error) {
	time.Sleep(time.Duration(w.upTo(500)) * time.Millisecond)
	if w.chance(12) {
		return nil, errSource
	}
	if w.chance(6) {
		offset, length = 0, -1 // does not support ranges
	}
	if length > 0 && w.chance(6) {
		length = 1 + int64(w.upTo(int(length))) // sends a shorter range
	}
	if length > 0 && w.chance(15) {
		length = -1 // ignores the end of the range
	}
	if offset > int64(len(s.content)) {
		return nil, errSource // the range is beyond the content
	}
	content := s.content[offset:]
	if length >= 0 {
		content = content[:min(length, int64(len(content)))]
	}
	if offset > 0 && w.chance(20) {
		content = s.content[offset-1:][:len(content)] // is off by one
	}
	if len(content) > 0 && w.chance(10) {
		content = flipped(content, w.upTo(len(content)))
	}
	if w.chance(20) {
		content = append(bytes.Clone(content), random(1, 1+w.upTo(200_000))...)
	}
	var r io.Reader = bytes.NewReader(content)
	if w.chance(2) {
		r = Paced(r, 10_000+w.upTo(400_000), time.Duration(w.upTo(100))*time.Millisecond)
	}
	switch at := int64(w.upTo(len(content) + 1)); w.upTo(8) {
	case 0, 1:
		r = cut(r, at)
	case 2:
		r = io.LimitReader(r, at)
	case 3:
		r = io.MultiReader(io.LimitReader(r, at), stalled(ctx))
	}
	if w.worn && w.chance(6) {
		r = w.wearing(r, int64(w.upTo(len(content)+1)))
	}
	body := s.body(offset, r)
	if length >= 0 {
		body.End = min(offset+length, int64(len(s.content)))
	}
	return w.misdescribed(s, body), nil
}

// misdescribed returns the body, which contradicts itself once in five calls on average.
func (w *world) misdescribed(s *source, body *fill.Body) *fill.Body {
	switch w.upTo(25) {
	case 0:
		body.Size = -1
	case 1:
		body.Size = int64(w.upTo(len(s.content) + 10))
	case 2:
		body.ETag = `"v2"`
	case 3:
		body.ETag = ""
	case 4:
		body.End = int64(w.upTo(len(s.content) + 10))
	}
	return body
}

// client reads random parts of the content, in some cases with a timeout.
func (w *world) client(s *source) {
	ctx := w.t.Context()
	if w.chance(4) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(w.upTo(5000))*time.Millisecond)
		defer cancel()
	}
	req := w.request(s)
	r, origin, err := w.cache.Get(ctx, req)
	if err != nil {
		return
	}
	defer r.Close()
	if origin != fill.Started {
		w.link(req.Scope, s, r.Size())
	}
	for range 1 + w.upTo(3) {
		from := 0
		if end := min(r.Size(), int64(len(s.content))); end > 0 && w.chance(2) {
			from = w.upTo(int(end)) // a server does not seek beyond the end
		}
		if _, err := r.Seek(int64(from), io.SeekStart); err != nil {
			w.t.Errorf("Seek to %d: got the error %v, want none", from, err)
		}
		if w.chance(2) {
			w.read(r, s, from)
		} else {
			w.copy(r, s, from)
		}
	}
}

// read reads from r like an HTTP server that answers range requests: up to the size.
func (w *world) read(r *blobcache.Reader, s *source, from int) {
	got := &comparison{content: s.content[from:]}
	var err error
	if r.Size() < 0 {
		_, err = io.Copy(got, struct{ io.Reader }{w.slow(r)})
	} else {
		_, err = io.CopyN(got, w.slow(r), r.Size()-min(int64(from), r.Size()))
	}
	w.judge(got, err, from, r)
}

// copy reads from r like an HTTP server that sends the whole body: until io.EOF.
func (w *world) copy(r *blobcache.Reader, s *source, from int) {
	got := &comparison{content: s.content[from:]}
	_, err := io.Copy(got, r)
	w.judge(got, err, from, r)
}

// slow returns r, or in half of the calls a slower reader of r.
func (w *world) slow(r io.Reader) io.Reader {
	if w.chance(2) {
		return r
	}
	return Paced(r, 10_000+w.upTo(400_000), time.Duration(w.upTo(200))*time.Millisecond)
}

// judge checks the bytes and the error that a client got when it read from an offset.
func (w *world) judge(got *comparison, err error, from int, r *blobcache.Reader) {
	if err != nil {
		if n, again := r.Read(make([]byte, 1)); n > 0 || again == nil || again == io.EOF {
			w.t.Errorf("reading on after the error %v: got %d bytes and the error %v, want 0 bytes and an error other than io.EOF", err, n, again)
		}
		return
	}
	if !got.equal() {
		w.t.Errorf("got a wrong body of %d bytes from offset %d without an error, want the %d bytes of the content from there; %d bytes were announced in all", got.n, from, len(got.content), r.Size())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.whole++
}
