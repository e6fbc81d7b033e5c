package blobcache

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"runtime"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// fakeDigest returns an arbitrary digest, a different one for each n.
func fakeDigest(n int) digest.Digest {
	var sum [32]byte
	binary.BigEndian.PutUint64(sum[:], uint64(n)*0x9E3779B97F4A7C15)
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum[:]))
}

// fakeBlobs is a store whose Walk visits n generated entries without any access to the
// disk, so that a benchmark measures the sweep alone. Walk calls visited from time to time.
type fakeBlobs struct {
	store.FileStore
	n       int
	visited func()
}

func (s *fakeBlobs) Walk(_ context.Context, visit func(store.Entry) error) error {
	now := time.Now()
	for i := range s.n {
		e := store.Entry{Digest: fakeDigest(i), Size: 1000, Used: now.Add(-time.Duration(i*7919%s.n) * time.Second)}
		if err := visit(e); err != nil {
			return err
		}
		if s.visited != nil && i%(s.n/8+1) == 0 {
			s.visited()
		}
	}
	return nil
}

func (*fakeBlobs) Stat(context.Context, digest.Digest) (store.Entry, error) {
	return store.Entry{Size: 1000}, nil
}

func (*fakeBlobs) Remove(context.Context, digest.Digest) error { return nil }

// fakeRecords is a store whose List visits n generated records of links. List calls visited
// from time to time.
type fakeRecords struct {
	store.FileStore
	n       int
	visited func()
}

func (l *fakeRecords) List(_ context.Context, _ string, visit func(store.Record) error) error {
	now := time.Now()
	for i := range l.n {
		r := store.Record{Key: "links/acme/_/docker.io/library/alpine/_/sha256/" + fakeDigest(i).Encoded(), Used: now.Add(-time.Duration(i*7919%l.n) * time.Second)}
		if err := visit(r); err != nil {
			return err
		}
		if l.visited != nil && i%(l.n/8+1) == l.n/8 {
			l.visited()
		}
	}
	return nil
}

// peakOf calls run and returns by how many bytes the heap in use has grown at most at the
// calls of visit.
func peakOf(tb testing.TB, run func(visit func())) (peak uint64) {
	tb.Helper()
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := inUse()
	run(func() { peak = max(peak, inUse()) })
	return peak - min(peak, before)
}

// BenchmarkSweep measures sweeps that remove half of the content, as only the first sweep
// after max_size was lowered does, and sweeps that remove nothing.
func BenchmarkSweep(b *testing.B) {
	for _, n := range []int{1000, 100_000, 1_000_000} {
		for name, size := range map[string]int64{"half": int64(n) * 1000 / 2, "none": int64(n) * 2000} {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				blobs := &fakeBlobs{n: n}
				k := newEvictor(blobs, Limits{MaxSize: size, Reserve: -1}, Hooks{})
				b.ReportAllocs()
				for b.Loop() {
					s, err := k.survey(b.Context(), k.excess(b.Context(), int64(n)*1000))
					if err != nil {
						b.Fatal(err)
					}
					k.evict(b.Context(), s)
				}
				b.ReportMetric(float64(peakOf(b, func(visit func()) {
					blobs.visited = visit
					if _, err := k.survey(b.Context(), k.excess(b.Context(), int64(n)*1000)); err != nil {
						b.Fatal(err)
					}
				}))/float64(n), "heap-B/object")
			})
		}
	}
}

// BenchmarkMeasure measures the part of a quota round that runs when no owner is over its
// quota.
func BenchmarkMeasure(b *testing.B) {
	for _, n := range []int{1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			blobs := &fakeBlobs{n: n}
			c := New(blobs, Limits{Reserve: -1}, Hooks{})
			q := NewQuotas(c, index.New(&fakeRecords{n: n}), map[string]int64{"acme": 1 << 50})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := q.measure(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(peakOf(b, func(visit func()) {
				m := &fakeRecords{n: n, visited: visit}
				q.index = index.New(m)
				if _, err := q.measure(b.Context()); err != nil {
					b.Fatal(err)
				}
			}))/float64(n), "heap-B/object")
		})
	}
}

// brokenRecords is a Records whose operations return the errors in fail, by the name of the
// operation.
type brokenRecords struct {
	store.Records
	fail map[string]error
}

func (l *brokenRecords) List(ctx context.Context, prefix string, visit func(store.Record) error) error {
	if err := l.fail["list"]; err != nil {
		return &fs.PathError{Op: "list", Path: prefix, Err: err}
	}
	return l.Records.List(ctx, prefix, visit)
}

func (l *brokenRecords) Mark(ctx context.Context, key string, used time.Time) error {
	if err := l.fail["mark"]; err != nil {
		return err
	}
	return l.Records.Mark(ctx, key, used)
}

func (l *brokenRecords) Delete(ctx context.Context, key string) error {
	if err := l.fail["delete"]; err != nil {
		return err
	}
	return l.Records.Delete(ctx, key)
}
