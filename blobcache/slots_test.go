package blobcache_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// asker asks for sources on behalf of a group.
func (e *env) asker(endpoint, group string, limits fill.SourceLimits) func(*source) (*blobcache.Reader, error) {
	return func(s *source) (*blobcache.Reader, error) {
		req := s.request(group)
		req.Endpoint, req.Group, req.Source = endpoint, group, limits
		r, _, err := e.cache.Get(e.t.Context(), req)
		return r, err
	}
}

// dripping is a source that sends so many bytes each second, for longer than any
// test lasts. The disk has room for all of them.
func (e *env) dripping(seed uint64, rate int) *source {
	s := e.source(random(seed, 1<<20))
	s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
		body := s.body(offset, polite(ctx, Paced(endless{}, rate, time.Second)))
		body.Size = 1 << 30
		return body, nil
	}
	return s
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestSlotsOfGroup: a group that has all its downloads under way is refused the
// next, and another group is not, until the endpoint has all that it may have.
func TestSlotsOfGroup(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		limits := fill.SourceLimits{Fills: 8} // 2 of a group
		red, blue := e.asker("hub", "red", limits), e.asker("hub", "blue", limits)
		refused := func(ask func(*source) (*blobcache.Reader, error), s *source) {
			t.Helper()
			if r, err := ask(s); !errors.Is(err, fill.ErrBusy) {
				t.Errorf("one too many: %v", err)
				if err == nil {
					_ = r.Close()
				}
			}
		}
		var slow []*source
		for i := range uint64(2) {
			slow = append(slow, e.dripping(i, 1000))
			if r, err := red(slow[i]); err != nil {
				t.Fatal(err)
			} else {
				_ = r.Close() // a deserted fill counts on
			}
		}
		refused(red, e.dripping(2, 1000))
		// Who follows a fill starts none.
		if r, err := red(slow[0]); err != nil {
			t.Error(err)
		} else {
			_ = r.Close()
		}
		quick := e.source(random(3, 300_000))
		if r, err := blue(quick); err != nil {
			t.Errorf("the other group: %v", err)
		} else {
			e.same(r, quick.content)
			_ = r.Close()
		}
		synctest.Wait()
		if !e.stored(quick) {
			t.Error("what the other group has pulled is not stored")
		}
		// What is stored takes no download.
		if r, err := red(quick); err != nil {
			t.Errorf("stored content: %v", err)
		} else {
			_ = r.Close()
		}
		// Another endpoint counts for itself.
		if r, err := e.asker("other", "red", limits)(e.dripping(4, 1000)); err != nil {
			t.Errorf("another endpoint: %v", err)
		} else {
			_ = r.Close()
		}
		for i := range uint64(6) {
			r, err := e.asker("hub", string('a'+rune(i)), limits)(e.dripping(10+i, 1000))
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Close()
		}
		refused(blue, e.dripping(20, 1000))
		time.Sleep(10 * time.Minute) // all of them are too slow
		if r, err := red(e.dripping(21, 1000)); err != nil {
			t.Errorf("after they have ended: %v", err)
		} else {
			_ = r.Close()
		}
	})
}

// TestSlotsCountBypasses: what is passed on without being stored counts as well, and no
// more once it is over, however it has ended.
func TestSlotsCountBypasses(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		limits := fill.SourceLimits{Fills: 4, GroupFills: 2}
		ask := e.asker("hub", "red", limits)
		for round := range uint64(3) {
			var readers []*blobcache.Reader
			for i := range uint64(2) {
				r, err := ask(e.dripping(10*round+i, 100_000))
				if err != nil {
					t.Fatal(err)
				}
				readers = append(readers, r)
			}
			if r, err := ask(e.dripping(10*round+5, 100_000)); !errors.Is(err, fill.ErrBusy) {
				t.Errorf("a third stream: %v", err)
				if err == nil {
					_ = r.Close()
				}
			}
			for _, r := range readers {
				_, _ = io.CopyN(io.Discard, r, 1000)
				_ = r.Close()
			}
			synctest.Wait()
		}
		s := e.source(random(50, 1000))
		s.answer = func(context.Context, int, int64) (*fill.Body, error) { return nil, errSource }
		for range 5 {
			if _, err := ask(s); !errors.Is(err, errSource) {
				t.Errorf("a source that refuses: %v", err)
			}
		}
	})
}
