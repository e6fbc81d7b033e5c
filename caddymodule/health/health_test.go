package health

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// service is a storage or a directory with an answer.
type service struct {
	directory.Directory
	asked  atomic.Int32
	answer func(context.Context) error
}

func (s *service) Reach(ctx context.Context) error {
	s.asked.Add(1)
	return s.answer(ctx)
}

func up(context.Context) error   { return nil }
func down(context.Context) error { return errors.New("connection refused") }

func hung(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// local is a directory that has its accounts in the configuration.
type local struct{ directory.Directory }

func named(name string, d directory.Directory) access.Named {
	return access.Named{Name: name, Directory: d}
}

// TestSiteStatus checks which parts make a site unavailable.
func TestSiteStatus(t *testing.T) {
	directories := func(all ...directory.Directory) (list []access.Named) {
		for _, d := range all {
			list = append(list, named("corp", d))
		}
		return list
	}
	for name, test := range map[string]struct {
		storage     func(context.Context) error
		directories []access.Named
		stopping    bool
		want        Status
	}{
		"all up":                         {up, directories(&service{answer: up}, local{}), false, OK},
		"no directory":                   {up, nil, false, OK},
		"the storage is down":            {down, directories(local{}), false, Unavailable},
		"the storage hangs":              {hung, directories(local{}), false, Unavailable},
		"the storage panics":             {func(context.Context) error { panic("bug") }, nil, false, Unavailable},
		"one of two directories is down": {up, directories(&service{answer: down}, &service{answer: up}), false, OK},
		"a directory that is not asked":  {up, directories(&service{answer: down}, local{}), false, OK},
		"all directories are down":       {up, directories(&service{answer: down}, &service{answer: hung}), false, Unavailable},
		"Caddy is about to stop":         {up, nil, true, Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if got := New("here", test.storage, test.directories).Report(t.Context(), test.stopping); got.Status != test.want {
					t.Errorf("got %+v, want %s", got, test.want)
				}
				time.Sleep(limit) // ends the questions that hang
			})
		})
	}
}

// TestSiteAsksOnce checks that a crowd of requests asks each part once, and again
// only when the answer has aged.
func TestSiteAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(context.Context) error { time.Sleep(100 * time.Millisecond); return nil }
		storage, corp := &service{answer: slow}, &service{answer: slow}
		s := New("here", storage.Reach, []access.Named{named("corp", corp)})
		crowd := func(want int32) {
			t.Helper()
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					if r := s.Report(t.Context(), false); r.Status != OK || r.Storage.Asked == nil {
						t.Errorf("got %+v, want ok", r)
					}
				})
			}
			all.Wait()
			if a, b := storage.asked.Load(), corp.asked.Load(); a != want || b != want {
				t.Errorf("asked %d and %d times, want %d", a, b, want)
			}
		}
		crowd(1)
		time.Sleep(interval / 2)
		crowd(1)
		time.Sleep(interval)
		crowd(2)
	})
}

// TestSiteHangs checks that requests do not wait for a part that hangs, such as a
// network file system, that the last answer counts for a while, that no second
// question is asked, and that the part is up again once it answers.
func TestSiteHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		storage := &service{answer: up}
		s := New("here", storage.Reach, nil)
		s.Report(t.Context(), false)
		storage.answer = func(context.Context) error { <-release; return nil } // deaf to its context
		time.Sleep(interval)
		look := func(want Status, longest time.Duration) Report {
			t.Helper()
			start := time.Now()
			r := s.Report(t.Context(), false)
			if took := time.Since(start); r.Status != want || took > longest {
				t.Errorf("got %+v after %s, want %s within %s", r.Storage, took, want, longest)
			}
			return r
		}
		look(OK, patience)
		time.Sleep(limit)
		if r := look(Unavailable, patience); !strings.Contains(r.Storage.Error, "has not answered for") {
			t.Errorf("got the error %q, want one that says how long it has not answered", r.Storage.Error)
		}
		time.Sleep(10 * interval)
		look(Unavailable, patience)
		if n := storage.asked.Load(); n != 2 {
			t.Errorf("asked %d times, want 2", n)
		}
		close(release)
		synctest.Wait()
		look(OK, patience)
	})
}

// TestSiteOneFailure checks that a part that has answered is down when it fails twice in
// a row, and not when it fails once, as at the restart of a server.
func TestSiteOneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := &service{answer: up}
		s := New("here", storage.Reach, nil)
		want := func(status Status, asked int32) {
			t.Helper()
			if r := s.Report(t.Context(), false); r.Status != status || storage.asked.Load() != asked {
				t.Errorf("got %+v after %d questions, want %s after %d", r.Storage, storage.asked.Load(), status, asked)
			}
		}
		want(OK, 1)
		time.Sleep(interval)
		storage.answer = down
		want(OK, 2)
		want(OK, 2)
		time.Sleep(doubt)
		storage.answer = up
		want(OK, 3)
		time.Sleep(doubt)
		want(OK, 3)
		time.Sleep(interval)
		storage.answer = down
		want(OK, 4)
		time.Sleep(doubt)
		want(Unavailable, 5)
		time.Sleep(doubt)
		want(Unavailable, 5)
		time.Sleep(interval)
		storage.answer = up
		want(OK, 6)
	})
}

// TestSiteTimesOut checks that a part that has answered is down when it does not answer
// in time once.
func TestSiteTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := &service{answer: up}
		s := New("here", storage.Reach, nil)
		s.Report(t.Context(), false)
		storage.answer = hung
		time.Sleep(interval)
		if r := s.Report(t.Context(), false); r.Status != OK {
			t.Errorf("got %+v, want the last answer", r.Storage)
		}
		time.Sleep(limit)
		if r := s.Report(t.Context(), false); r.Status != Unavailable {
			t.Errorf("got %+v, want a part that is down", r.Storage)
		}
	})
}

// TestSiteClientLeaves checks that a request that ends does not end a question.
func TestSiteClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := &service{answer: func(ctx context.Context) error {
			time.Sleep(time.Second)
			return ctx.Err()
		}}
		s := New("here", storage.Reach, nil)
		gone, leave := context.WithCancel(t.Context())
		leave()
		if r := s.Report(gone, false); r.Status != Unavailable {
			t.Errorf("got %+v, want a part that is not known yet to be down", r)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if r := s.Report(t.Context(), false); r.Status != OK || storage.asked.Load() != 1 {
			t.Errorf("got %+v after %d questions, want ok after 1", r, storage.asked.Load())
		}
	})
}
