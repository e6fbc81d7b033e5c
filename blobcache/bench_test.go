package blobcache_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// sink is a writer that copies the bytes, as a connection without sendfile(2) does.
type sink struct{ buf []byte }

func (s *sink) Write(p []byte) (n int, err error) {
	for n < len(p) {
		n += copy(s.buf, p[n:])
	}
	return n, nil
}

// BenchmarkWarm1MiB measures opening, reading and closing a stored layer of 1 MiB.
func BenchmarkWarm1MiB(b *testing.B) {
	e := newEnv(b, b.TempDir())
	s := e.source(random(1, 1<<20))
	if err := e.cache.PutBytes(b.Context(), s.digest, s.content); err != nil {
		b.Fatal(err)
	}
	req := s.request("a")
	req.Size = 1 << 20
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		w := &sink{make([]byte, 1<<20)}
		for pb.Next() {
			r, origin, err := e.cache.Get(b.Context(), req)
			if err != nil || origin != fill.Hit {
				b.Errorf("got origin %v and the error %v, want origin %v and no error", origin, err, fill.Hit)
				return
			}
			if n, err := io.Copy(w, r); err != nil || n != 1<<20 {
				b.Errorf("copied %d bytes with the error %v, want %d bytes and no error", n, err, 1<<20)
			}
			_ = r.Close()
		}
	})
}

// BenchmarkWarm1GiB measures sending a stored layer of 1 GiB, a sparse file, to a connection
// without sendfile(2).
func BenchmarkWarm1GiB(b *testing.B) {
	const size = 1 << 30
	e := newEnv(b, b.TempDir())
	s := e.source(nil)
	s.digest = "sha256:49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14" // of 1 GiB of zeros
	name := e.path(s.digest)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		b.Fatal(err)
	}
	file, err := os.Create(name)
	if err == nil {
		err = errors.Join(file.Truncate(size), file.Close())
	}
	if err != nil {
		b.Fatal(err)
	}
	req := s.request("a")
	req.Size = size
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		r, origin, err := e.cache.Get(b.Context(), req)
		if err != nil || origin != fill.Hit {
			b.Fatalf("got origin %v and the error %v, want origin %v and no error", origin, err, fill.Hit)
		}
		if n, err := io.Copy(&sink{make([]byte, 1<<20)}, r); err != nil || n != size {
			b.Errorf("copied %d bytes with the error %v, want %d bytes and no error", n, err, size)
		}
		_ = r.Close()
	}
}

// BenchmarkRanges measures a fill of 32 MiB from a source that is limited to 50 MB/s per
// connection.
func BenchmarkRanges(b *testing.B) {
	const size = 32 << 20
	for _, connections := range []int{1, 4} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			e := newEnv(b, b.TempDir())
			e.cache.SetSpans(4<<20, 1<<20, 8<<20)
			s := e.source(random(4, size))
			s.connections = connections
			s.ranged = func(_ context.Context, _ int, offset, length int64) (*fill.Body, error) {
				return s.span(offset, length, Paced(s.from(offset), 100_000, 2*time.Millisecond)), nil
			}
			b.SetBytes(size)
			for b.Loop() {
				drain(b, e, s)
				<-e.ended
				if err := e.files.Remove(b.Context(), s.digest); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCold measures one fill of 16 MiB with several readers, until the content is stored.
func BenchmarkCold(b *testing.B) {
	const size = 16 << 20
	for _, readers := range []int{1, 50, 200} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			e := newEnv(b, b.TempDir())
			s := e.source(random(2, size))
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				var all sync.WaitGroup
				for range readers {
					all.Go(func() { drain(b, e, s) })
				}
				all.Wait()
				<-e.ended
				if err := e.files.Remove(b.Context(), s.digest); err != nil {
					b.Fatal(err)
				}
			}
			if s.fetches() != b.N {
				b.Errorf("got %d fetches, want %d", s.fetches(), b.N)
			}
		})
	}
}

// drain reads the whole content of the source through the cache.
func drain(b *testing.B, e *env, s *source) {
	r, _, err := e.get(s)
	if err != nil {
		b.Error(err)
		return
	}
	defer r.Close()
	if n, err := io.Copy(&sink{make([]byte, 256<<10)}, r); err != nil || n != int64(len(s.content)) {
		b.Errorf("copied %d bytes with the error %v, want %d bytes and no error", n, err, len(s.content))
	}
}

var files = flag.Int("files", 5000, "number of contents and links that the benchmark of a real directory creates")

// BenchmarkDirectory measures the work at the start and in the background, on a real directory
// and without pauses.
func BenchmarkDirectory(b *testing.B) {
	dir := b.TempDir()
	opened, err := store.OpenFileStore(dir)
	if err != nil {
		b.Fatal(err)
	}
	known := index.New(opened)
	for n := range *files {
		d := digest.FromString(fmt.Sprint(n))
		name := filepath.Join(dir, "blobs", "sha256", d.Encoded()[:2], d.Encoded())
		err := os.WriteFile(name, fmt.Append(nil, n), 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, fmt.Append(nil, n), 0o600))
		}
		if err := errors.Join(err, known.AddLink(b.Context(), "acme/_/docker.io/library/alpine", d, index.Link{Size: 1})); err != nil {
			b.Fatal(err)
		}
	}
	cache := blobcache.New(opened, blobcache.Limits{}, blobcache.Hooks{})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if _, err := store.OpenFileStore(dir); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("walk", func(b *testing.B) {
		for b.Loop() {
			if err := opened.Walk(b.Context(), func(store.Entry) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if err := opened.List(b.Context(), "links", func(store.Record) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("scrub", func(b *testing.B) {
		for b.Loop() {
			if found, err := cache.Scrub(b.Context(), 0, nil); err != nil || found.Checked != *files {
				b.Fatalf("got %+v and the error %v, want %d checked and no error", found, err, *files)
			}
		}
	})
}

// BenchmarkBytes measures reading a manifest from memory and from disk.
func BenchmarkBytes(b *testing.B) {
	e := newEnv(b, b.TempDir())
	for name, size := range map[string]int{"memory": 4 << 10, "disk": 80 << 10} {
		b.Run(name, func(b *testing.B) {
			s := e.source(random(3, size))
			if err := e.cache.PutBytes(b.Context(), s.digest, s.content); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.bytes(s.digest, 1<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
