package blobcache

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// TestQuotasPurgeKeepsContentInUse checks that content that is being read or fetched when
// Purge removes its last link is kept for the moment, and removed when the read or the
// fetch has ended.
func TestQuotasPurgeKeepsContentInUse(t *testing.T) {
	e := newQuotaFixture(t, nil)
	e.pull("acme/_/hub/a", "image", "layer")
	r, _, err := e.cache.Get(t.Context(), fill.Request{Digest: e.layer("layer", 10_000), Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	gate, text := make(chan struct{}), "on its way"
	late := digest.FromString(text)
	coming, _, err := e.cache.Get(t.Context(), fill.Request{Digest: late, Size: -1, Fetch: func(context.Context, int64, int64, string) (*fill.Body, error) {
		return &fill.Body{ReadCloser: io.NopCloser(io.MultiReader(opened(gate), strings.NewReader(text))), Size: int64(len(text))}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	e.names[late] = text
	if err := e.index.AddLink(t.Context(), "acme/_/hub/a", late, index.Link{Size: -1}); err != nil {
		t.Fatal(err)
	}
	if n, err := e.quotas.Purge(t.Context(), "acme"); n != 3 || err != nil {
		t.Fatalf("Purge: got %d links and the error %v, want 3 and no error", n, err)
	}
	if pending, err := e.quotas.round(t.Context()); !pending || err != nil {
		t.Errorf("round while content is in use: got pending %t and the error %v, want true and no error", pending, err)
	}
	e.expect("layer")
	close(gate)
	if got, err := io.ReadAll(coming); string(got) != text || err != nil {
		t.Errorf("the content being fetched: got %q and the error %v, want %q and no error", got, err, text)
	}
	e.cache.Flush(t.Context())
	_, _ = r.Close(), coming.Close()
	if pending, err := e.quotas.round(t.Context()); pending || err != nil {
		t.Errorf("round after the last use: got pending %t and the error %v, want false and no error", pending, err)
	}
	e.expect("")
}

// opened returns a reader that waits until the gate is open and then reports io.EOF.
func opened(gate <-chan struct{}) io.Reader {
	return readerFunc(func([]byte) (int, error) {
		<-gate
		return 0, io.EOF
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestQuotasPurgeRetriesAfterStorageError checks that a round reports an error of the store,
// and that the next round removes the purged content.
func TestQuotasPurgeRetriesAfterStorageError(t *testing.T) {
	e := newQuotaFixture(t, nil)
	records := &brokenRecords{Records: e.store}
	e.index = index.New(records)
	e.quotas.index = e.index
	e.pull("acme/_/hub/a", "image", "layer")
	if _, err := e.quotas.Purge(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	records.fail = map[string]error{"list": errors.New("the disk is in trouble")}
	if _, err := e.quotas.round(t.Context()); err == nil {
		t.Error("round when records cannot be listed: got no error, want one")
	}
	records.fail = nil
	e.round()
	e.expect("")
}

// touchedBlobs calls mark before it writes a use to the store.
type touchedBlobs struct {
	*store.FileStore
	mark func(d digest.Digest) error
}

func (s touchedBlobs) Touch(ctx context.Context, d digest.Digest, used time.Time) error {
	if err := s.mark(d); err != nil {
		return err
	}
	return s.FileStore.Touch(ctx, d, used)
}

// TestEvictSparesUseBeingWritten checks that content that was just used is not evicted while
// another goroutine writes that use to the store.
func TestEvictSparesUseBeingWritten(t *testing.T) {
	g := newImageFixture(t, Limits{})
	d := g.layer("layer", 1000)
	g.cache.evictor.writeUses(t.Context())
	entry, err := g.store.Stat(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	evicted := make(chan struct{})
	g.cache.evictor.blobs = touchedBlobs{g.store, func(digest.Digest) error {
		go func() {
			defer close(evicted)
			g.cache.evictor.evict(t.Context(), &survey{excess: 1, victims: byUse{entry}})
		}()
		select {
		case <-evicted:
		case <-time.After(50 * time.Millisecond): // evict waits, as wanted
		}
		return nil
	}}
	g.cache.Used(d)
	g.cache.evictor.writeUses(t.Context())
	<-evicted
	g.expect("layer")
}

// TestEvictorKeepsOtherUsesAfterFailedWrite checks that writeUses writes all other uses if the
// write of one fails.
func TestEvictorKeepsOtherUsesAfterFailedWrite(t *testing.T) {
	g := newImageFixture(t, Limits{})
	var all []digest.Digest
	for _, name := range []string{"a", "b", "c", "d"} {
		all = append(all, g.layer(name, 1000))
	}
	marked := 0
	g.cache.evictor.blobs = touchedBlobs{g.store, func(d digest.Digest) error {
		if d == all[1] {
			return errors.New("the disk is in trouble")
		}
		marked++
		return nil
	}}
	g.cache.evictor.writeUses(t.Context())
	if marked != 3 {
		t.Errorf("got %d uses written, want 3", marked)
	}
}

// TestEvictorMakesRoomForLargeContent checks that content larger than the room that the water
// marks leave free is stored, and that other content is evicted for it.
func TestEvictorMakesRoomForLargeContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := kept(t, t.TempDir(), Limits{MaxSize: 10_000})
		for n := range 9 {
			pull(t, c, n, 1000)
			age(t, store, n, 1000, time.Hour)
		}
		ctx, cancel := context.WithCancel(t.Context())
		kept := make(chan struct{})
		go func() {
			defer close(kept)
			c.Keep(ctx)
		}()
		time.Sleep(time.Minute)
		begin := time.Now()
		pull(t, c, 100, 5000)
		if took := time.Since(begin); took > time.Second || !has(t, c, 100, 5000) {
			t.Errorf("the pull took %v, or the content is not stored; want it stored after at most %v", took, time.Second)
		}
		cancel()
		<-kept
	})
}

// hesitantBlobs delays each removal until Stat has been called twice, or some time has
// passed.
type hesitantBlobs struct {
	*store.FileStore
	seen chan struct{}
}

func (s hesitantBlobs) Stat(ctx context.Context, d digest.Digest) (store.Entry, error) {
	e, err := s.FileStore.Stat(ctx, d)
	s.seen <- struct{}{}
	return e, err
}

func (s hesitantBlobs) Remove(ctx context.Context, d digest.Digest) error {
	for range 2 {
		select {
		case <-s.seen:
		case <-time.After(50 * time.Millisecond):
		}
	}
	return s.FileStore.Remove(ctx, d)
}

// TestCacheHealCountsOnce checks that the size of damaged content is subtracted once if two
// goroutines heal it at the same time.
func TestCacheHealCountsOnce(t *testing.T) {
	g := newImageFixture(t, Limits{})
	d := g.layer("layer", 1000)
	g.cache.evictor.blobs = hesitantBlobs{g.store, make(chan struct{}, 2)}
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() { g.cache.heal(t.Context(), d, fill.ErrDigestMismatch) })
	}
	all.Wait()
	if k := g.cache.evictor; k.stored != 0 {
		t.Errorf("got %d bytes counted as stored, want 0", k.stored)
	}
}
