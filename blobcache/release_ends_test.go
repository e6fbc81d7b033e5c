package blobcache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// ends maps the names of the ways in which a pull can end to functions that cause them.
var ends = map[string]func(s *site, b []byte){
	"well": func(s *site, b []byte) {
		if err := s.read(s.request("a", b, gives(bytes.NewReader(b), int64(len(b))))); err != nil {
			s.Errorf("pull: got the error %v, want none", err)
		}
		synctest.Wait()
		if s.holds < 2 {
			s.Errorf("got %d calls of Reserve, want at least 2", s.holds)
		}
	},
	"no size": func(s *site, b []byte) { _ = s.read(s.request("a", b, gives(bytes.NewReader(b), -1))) },
	"refused": func(s *site, b []byte) {
		for range 20 {
			err := s.read(s.request("a", b, func(context.Context, int64, int64) (*fill.Body, error) { return nil, errRefused }))
			if !errors.Is(err, errRefused) {
				s.Errorf("pull: got the error %v, want %v", err, errRefused)
			}
		}
	},
	"no answer": func(s *site, b []byte) {
		_ = s.read(s.request("a", b, func(ctx context.Context, _, _ int64) (*fill.Body, error) { <-ctx.Done(); return nil, ctx.Err() }))
	},
	"other bytes": func(s *site, b []byte) {
		_ = s.read(s.request("a", b, gives(bytes.NewReader(make([]byte, len(b))), int64(len(b)))))
	},
	"too many": func(s *site, b []byte) {
		_ = s.read(s.request("a", b, gives(io.MultiReader(bytes.NewReader(b), bytes.NewReader(b)), int64(len(b)))))
	},
	"too few": func(s *site, b []byte) {
		_ = s.read(s.request("a", b, gives(bytes.NewReader(b[:len(b)/2]), int64(len(b)))))
	},
	"stalls":       func(s *site, b []byte) { _ = s.read(s.request("a", b, hangs(b[:len(b)/2], int64(len(b))))) },
	"left":         func(s *site, b []byte) { s.leave(s.request("a", b, hangs(b[:len(b)/2], int64(len(b))))) },
	"left at once": func(s *site, b []byte) { leftAtOnce(s, b) },
	"never fits":   func(s *site, b []byte) { s.leave(s.request("a", b, hangs(b[:len(b)/2], 1<<50))) },
	"over the limit": func(s *site, b []byte) {
		req := s.request("a", b, gives(bytes.NewReader(b), -1))
		req.Limit = 1000
		_ = s.read(req)
		req.Fetch = s.request("a", b, gives(bytes.NewReader(b), int64(len(b)))).Fetch
		_ = s.read(req)
	},
	"quota is full": func(s *site, b []byte) {
		req := s.request("a", b, gives(bytes.NewReader(b), int64(len(b))))
		taken := req.Reserve
		req.Reserve = func(n int64) bool { return (n < 0 || s.holding() < 100_000) && taken(n) }
		_ = s.read(req)
	},
	"no spool": func(s *site, b []byte) {
		s.blobs.spool = func() (*os.File, error) { return nil, errRefused }
		_ = s.read(s.request("a", b, gives(bytes.NewReader(b), int64(len(b)))))
		s.leave(s.request("a", b, hangs(b[:len(b)/2], int64(len(b)))))
		leftAtOnce(s, b)
		followed(s, b)
	},
	"spool breaks": func(s *site, b []byte) {
		s.blobs.spool = func() (*os.File, error) {
			file, err := s.blobs.smallDisk.Spool(s.Context())
			if err != nil {
				return nil, err
			}
			defer file.Close()
			return os.Open(file.Name())
		}
		_ = s.read(s.request("a", b, gives(bytes.NewReader(b), int64(len(b)))))
		followed(s, b)
	},
	"not committed": func(s *site, b []byte) {
		s.blobs.spool = func() (*os.File, error) {
			file, err := s.blobs.smallDisk.Spool(s.Context())
			if err == nil {
				err = os.Remove(file.Name())
			}
			return file, err
		}
		_ = s.read(s.request("a", b, gives(bytes.NewReader(b), int64(len(b)))))
	},
	"abandoned": func(s *site, b []byte) {
		s.cache.evictor.limits.StopAbandoned = true
		s.cache.fills = s.cache.newFills(fill.DefaultSpans)
		for range 2 {
			s.leave(s.request("a", b, hangs(b[:len(b)/2], 60<<20)))
			time.Sleep(10*time.Second + time.Nanosecond)
		}
	},
	"in ranges": func(s *site, b []byte) {
		s.cache.SetSpans(50_000, 20_000, 40_000)
		for _, good := range []int{0, 1, 3} {
			req, asked := s.request("a", b, nil), 0
			req.Connections = 4
			req.Fetch = func(_ context.Context, offset, length int64, _ string) (*fill.Body, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				if asked++; asked > good {
					return nil, errRefused
				}
				end := min(offset+length, int64(len(b)))
				return &fill.Body{ReadCloser: io.NopCloser(bytes.NewReader(b[offset:end])), Size: int64(len(b)), Offset: offset, End: end}, nil
			}
			_ = s.read(req)
		}
	},
	"followed": followed,
	"other size": func(s *site, b []byte) {
		req := s.request("a", b, gives(bytes.NewReader(b), int64(len(b))))
		req.Claim = unsure{size: 5}
		if err := s.read(req); !errors.Is(err, fill.ErrDigestMismatch) {
			s.Errorf("pull: got the error %v, want %v", err, fill.ErrDigestMismatch)
		}
	},
	"two endpoints": func(s *site, b []byte) {
		var all sync.WaitGroup
		for _, endpoint := range []string{"hub", "quay", "hub", "quay"} {
			all.Go(func() {
				req := s.request("a", b, gives(bytes.NewReader(b), int64(len(b))))
				req.Endpoint = endpoint
				if err := s.read(req); err != nil {
					s.Errorf("pull of %s: got the error %v, want none", endpoint, err)
				}
			})
		}
		all.Wait()
		synctest.Wait()
		if s.cache.evictor.stored != int64(len(b)) {
			s.Errorf("got %d stored bytes, want %d", s.cache.evictor.stored, len(b))
		}
	},
	"a client panics": func(s *site, b []byte) {
		defer func() { _ = recover() }()
		r, _, err := s.cache.Get(s.Context(), s.request("a", b, gives(bytes.NewReader(b), int64(len(b)))))
		if err != nil {
			s.Fatal(err)
		}
		defer r.Close()
		_, _ = r.WriteTo(writeFunc(func([]byte) (int, error) { panic("the client panics") }))
	},
}

// writeFunc is a function as an [io.Writer].
type writeFunc func(p []byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

// unsure is a claim that the source neither confirms nor denies.
type unsure struct{ size int64 }

func (c unsure) Standing(context.Context) fill.Standing {
	return fill.Standing{Delivered: c.size >= 0, Size: c.size}
}
func (unsure) Confirm(context.Context, int64) error { return fill.ErrUnconfirmed }
func (unsure) Delivered(int64)                      {}

// leftAtOnce pulls b for a client that leaves before the source answers.
func leftAtOnce(s *site, b []byte) {
	ctx, cancel := context.WithCancel(s.Context())
	answer := make(chan struct{})
	req := s.request("a", b, func(ctx context.Context, o, l int64) (*fill.Body, error) {
		<-answer
		return hangs(b[:len(b)/2], int64(len(b)))(ctx, o, l)
	})
	time.AfterFunc(time.Second, cancel)
	if r, _, err := s.cache.Get(ctx, req); err == nil {
		s.Error("Get of a client that left: got no error, want one")
		_ = r.Close()
	}
	close(answer)
}

// followed pulls b for clients of several scopes that join a fill that stalls. The source
// refuses scope d and confirms nothing to b and c, which fetch the content themselves.
func followed(s *site, b []byte) {
	var all sync.WaitGroup
	for i, scope := range []string{"a", "b", "a", "c", "b", "d"} {
		all.Go(func() {
			time.Sleep(time.Duration(i) * time.Second)
			req := s.request(scope, b, hangs(b[:len(b)/2], int64(len(b))))
			if scope != "a" {
				req.Claim = unsure{size: -1}
			}
			if scope == "d" {
				req.Claim = refusing{}
			}
			_ = s.read(req)
		})
	}
	all.Wait()
}

// refusing is a claim that the source denies.
type refusing struct{ unsure }

func (refusing) Standing(context.Context) fill.Standing { return fill.Standing{Size: -1} }
func (refusing) Confirm(context.Context, int64) error   { return errRefused }
