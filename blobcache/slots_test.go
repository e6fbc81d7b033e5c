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

// asker returns a function that gets the content of a source for a group.
func (e *env) asker(endpoint, group string, limits fill.SourceLimits) func(*source) (*blobcache.Reader, error) {
	return func(s *source) (*blobcache.Reader, error) {
		req := s.request(group)
		req.Endpoint, req.Group, req.Source = endpoint, group, limits
		r, _, err := e.cache.Get(e.t.Context(), req)
		return r, err
	}
}

// dripping returns a source that sends rate bytes a second for longer than any test lasts.
// The disk has space for all of them.
func (e *env) dripping(seed uint64, rate int) *source {
	s := e.source(random(seed, 1<<20))
	s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
		body := s.body(offset, polite(ctx, Paced(endless{}, rate, time.Second)))
		body.Size = 1 << 30
		return body, nil
	}
	return s
}

// endless is a reader that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestSlotsOfGroup checks that the cache refuses a further download to a group that has as
// many as it may have, and to every group when the endpoint has as many as it may have.
func TestSlotsOfGroup(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		limits := fill.SourceLimits{Fills: 8} // which allows 2 of a group
		red, blue := e.asker("hub", "red", limits), e.asker("hub", "blue", limits)
		refused := func(ask func(*source) (*blobcache.Reader, error), s *source) {
			t.Helper()
			if r, err := ask(s); !errors.Is(err, fill.ErrBusy) {
				t.Errorf("a download over the limit: got the error %v, want %v", err, fill.ErrBusy)
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
				_ = r.Close() // a fill without readers still counts
			}
		}
		refused(red, e.dripping(2, 1000))
		// A request that joins a fill needs no download.
		if r, err := red(slow[0]); err != nil {
			t.Errorf("joining a fill: got the error %v, want none", err)
		} else {
			_ = r.Close()
		}
		quick := e.source(random(3, 300_000))
		if r, err := blue(quick); err != nil {
			t.Errorf("the other group: got the error %v, want none", err)
		} else {
			e.same(r, quick.content)
			_ = r.Close()
		}
		synctest.Wait()
		if !e.stored(quick) {
			t.Error("the content that the other group pulled is not stored, want it stored")
		}
		// Stored content needs no download.
		if r, err := red(quick); err != nil {
			t.Errorf("stored content: got the error %v, want none", err)
		} else {
			_ = r.Close()
		}
		// The downloads of another endpoint are counted separately.
		if r, err := e.asker("other", "red", limits)(e.dripping(4, 1000)); err != nil {
			t.Errorf("another endpoint: got the error %v, want none", err)
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
		time.Sleep(10 * time.Minute) // all downloads end because they are too slow
		if r, err := red(e.dripping(21, 1000)); err != nil {
			t.Errorf("after the downloads have ended: got the error %v, want none", err)
		} else {
			_ = r.Close()
		}
	})
}

// TestSlotsCountBypasses checks that a download that is passed on without being stored
// counts until it ends, however it ends.
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
				t.Errorf("a third download: got the error %v, want %v", err, fill.ErrBusy)
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
				t.Errorf("a source that refuses: got the error %v, want %v", err, errSource)
			}
		}
	})
}
