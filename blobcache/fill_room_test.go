package blobcache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// claiming returns a fetch whose source reports the given size, sends one byte, and sends the
// rest of the content after gate is closed.
func claiming(content []byte, size int64, gate <-chan struct{}) fill.Fetch {
	return func(ctx context.Context, _, _ int64, _ string) (*fill.Body, error) {
		rest := readFunc(func([]byte) (int, error) {
			select {
			case <-gate:
				return 0, io.EOF
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		})
		r := io.MultiReader(bytes.NewReader(content[:1]), rest, bytes.NewReader(content[1:]))
		return &fill.Body{ReadCloser: io.NopCloser(r), Size: size}, nil
	}
}

// keeping runs a test on a fake clock, on a disk of the given size, while Cache.Keep runs.
func keeping(t *testing.T, size int64, limits Limits, test func(t *testing.T, c *Cache)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		files, err := store.OpenFileStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		c := New(&smallDisk{files, dirOf(files), size}, limits, Hooks{})
		ctx, cancel := context.WithCancel(t.Context())
		kept := make(chan struct{})
		go func() { defer close(kept); c.Keep(ctx) }()
		defer func() { cancel(); <-kept }()
		test(t, c)
	})
}

// TestFillClaimedSizeEvictsNothing checks that the size that a source reports evicts nothing,
// and that the bytes that arrive do, so that the content is stored.
func TestFillClaimedSizeEvictsNothing(t *testing.T) {
	for name, test := range map[string]struct {
		disk   int64
		limits Limits
	}{
		"max_size": {1 << 40, Limits{MaxSize: 7_000_000, Reserve: -1}},
		"disk":     {6_400_000, Limits{Reserve: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			keeping(t, test.disk, test.limits, func(t *testing.T, c *Cache) {
				const red, size = 320_000, 6_200_000
				for n := range 10 {
					pull(t, c, n, red)
				}
				synctest.Wait()
				time.Sleep(2 * pullSpan) // until the contents count as unused
				blue, d := content(100, size)
				gate := make(chan struct{})
				begin := time.Now()
				r, _, err := c.Get(t.Context(), fill.Request{Digest: d, Size: -1, Group: "blue", Fetch: claiming(blue, size, gate)})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if took := time.Since(begin); took > time.Second {
					t.Errorf("got the size after %v, want it within 1s: the fill need not wait for room", took)
				}
				time.Sleep(20 * time.Second)
				for n := range 10 {
					if !has(t, c, n, red) {
						t.Errorf("content %d was evicted after one byte had arrived", n)
					}
				}
				if _, reserved, _ := c.Counted(); reserved > 2 {
					t.Errorf("got %d bytes reserved after one byte had arrived, want at most 2", reserved)
				}
				close(gate)
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, blue) {
					t.Errorf("got %d bytes and the error %v, want the %d bytes of the content and no error", len(got), err, size)
				}
				c.Flush(t.Context())
				time.Sleep(2 * keepRest) // until the last sweep that the fill has requested
				synctest.Wait()
				if !has(t, c, 100, size) {
					t.Error("the content that has arrived whole is not stored")
				}
				if _, reserved, _ := c.Counted(); reserved != 0 || len(c.evictor.groups) != 0 {
					t.Errorf("got %d bytes still reserved, by group %v; want 0 and no groups", reserved, c.evictor.groups)
				}
			})
		})
	}
}

// TestFillThatNeverFits checks that content that can never fit is passed on at once and evicts
// nothing, whether or not a walk has counted the stored content.
func TestFillThatNeverFits(t *testing.T) {
	const disk, red = 800_000, 300_000
	for name, test := range map[string]struct {
		size    int64
		limits  Limits
		unswept bool
	}{
		"a petabyte":               {1 << 50, Limits{Reserve: 1}, false},
		"a petabyte, max_size":     {1 << 50, Limits{MaxSize: 1 << 40, Reserve: 1}, false},
		"more than the disk":       {1_200_000, Limits{Reserve: 1}, false},
		"before the first walk":    {1_200_000, Limits{Reserve: 1}, true},
		"more than is free beside": {700_000, Limits{Reserve: 200_000}, false},
		"no reserve":               {1 << 50, Limits{Reserve: -1}, false},
		"more than max_size":       {1_200_000, Limits{MaxSize: 1_000_000, Reserve: -1}, false},
		"max_size above the disk":  {1_200_000, Limits{MaxSize: 2_000_000, Reserve: 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			keeping(t, disk, test.limits, func(t *testing.T, c *Cache) {
				pull(t, c, 1, red)
				synctest.Wait()
				time.Sleep(2 * pullSpan)
				if test.unswept {
					c.evictor.mu.Lock()
					c.evictor.walked = false
					c.evictor.mu.Unlock()
				}
				blue, d := content(100, 1_200_000)
				begin := time.Now()
				r, origin, err := c.Get(t.Context(), fill.Request{Digest: d, Size: -1, Fetch: func(context.Context, int64, int64, string) (*fill.Body, error) {
					return &fill.Body{ReadCloser: io.NopCloser(bytes.NewReader(blue)), Size: test.size}, nil
				}})
				if err != nil || origin != fill.Started {
					t.Fatalf("got origin %v and the error %v, want origin %v and no error", origin, err, fill.Started)
				}
				defer r.Close()
				if n, err := io.CopyN(io.Discard, r, min(test.size, 1_200_000)-64<<10); err != nil {
					t.Errorf("read %d bytes with the error %v, want %d bytes and no error", n, err, min(test.size, 1_200_000)-64<<10)
				}
				if took := time.Since(begin); took > time.Second/2 {
					t.Errorf("the content took %v to arrive, want at most %v", took, time.Second/2)
				}
				time.Sleep(10 * time.Second)
				if !has(t, c, 1, red) {
					t.Error("the stored content was evicted")
				}
			})
		})
	}
}

// TestFillOfNearlyMaxSize checks that content that a sweep would remove as soon as it is stored
// is passed on and evicts nothing, and that content that a sweep keeps is stored.
func TestFillOfNearlyMaxSize(t *testing.T) {
	keeping(t, 1<<40, Limits{MaxSize: 1_300_000, Reserve: -1}, func(t *testing.T, c *Cache) {
		pull(t, c, 1, 300_000)
		synctest.Wait()
		for n, size := range map[int]int{2: 1_290_000, 3: 1_200_000} {
			time.Sleep(2 * pullSpan)
			pull(t, c, n, size)
			time.Sleep(2 * keepRest)
			synctest.Wait()
			if has(t, c, n, size) || !has(t, c, 1, 300_000) {
				t.Errorf("content of %d bytes is stored: %v, the earlier content: %v; want false, true", size, has(t, c, n, size), has(t, c, 1, 300_000))
			}
		}
		time.Sleep(2 * pullSpan)
		pull(t, c, 4, 1_150_000)
		time.Sleep(2 * keepRest)
		synctest.Wait()
		if !has(t, c, 4, 1_150_000) || has(t, c, 1, 300_000) {
			t.Errorf("content that fits is stored: %v, the earlier content: %v; want true, false", has(t, c, 4, 1_150_000), has(t, c, 1, 300_000))
		}
	})
}

// TestEvictorFitsBesideStored checks that content can fit if it is no larger than the free space
// and the space of the stored content together, less the reserve.
func TestEvictorFitsBesideStored(t *testing.T) {
	keeping(t, 1_000_000, Limits{Reserve: 100_000}, func(t *testing.T, c *Cache) {
		pull(t, c, 1, 300_000)
		sweep(t, c)
		// Files take whole blocks of the disk, slightly more than their bytes.
		for size, want := range map[int64]bool{-1: true, 0: true, 600_000: true, 890_000: true, 901_000: false, 1_000_000: false} {
			if err := c.evictor.Fits(t.Context(), size); (err == nil) != want || err != nil && !errors.Is(err, fill.ErrTooLarge) {
				t.Errorf("Fits of %d bytes: got the error %v, want it to fit: %v", size, err, want)
			}
		}
	})
}

// TestEvictorGroupShare checks that several downloads of one group get at most half of the room,
// so that they cannot evict the content of all other groups, and that a single download may get
// all of it.
func TestEvictorGroupShare(t *testing.T) {
	k := newEvictor(new(fakeBlobs), Limits{MaxSize: 1000, Reserve: -1}, Hooks{})
	a, b := reservation{group: "acme"}, reservation{group: "acme"}
	other := reservation{group: "other"}
	for _, step := range []struct {
		of   *reservation
		size int64
		ok   bool
	}{{&a, 600, true}, {&b, 1, false}, {&other, 300, true}, {&a, 100, true}} {
		if err := k.reserve(t.Context(), step.of, step.size); (err == nil) != step.ok {
			t.Errorf("reserve of %d more bytes for %s, which has %d: got the error %v, want success: %v", step.size, step.of.group, step.of.bytes, err, step.ok)
		}
	}
	k.settle(&a, 0)
	if err := k.reserve(t.Context(), &b, 1); err != nil {
		t.Errorf("reserve after the first download has ended: got the error %v, want none", err)
	}
}
