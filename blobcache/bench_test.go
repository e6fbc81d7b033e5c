package blobcache_test

import (
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
)

// sink takes bytes as a connection without sendfile(2) does.
type sink struct{ buf []byte }

func (s *sink) Write(p []byte) (int, error) { return copy(s.buf, p), nil }

// BenchmarkWarm1MiB is a stored layer from open to close.
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
			if err != nil || origin != blobcache.Hit {
				b.Errorf("origin %v, %v", origin, err)
				return
			}
			if n, err := io.Copy(w, r); err != nil || n != 1<<20 {
				b.Errorf("copied %d bytes, %v", n, err)
			}
			_ = r.Close()
		}
	})
}

// BenchmarkCold is one fill of 16 MiB, with all of its readers and until it is
// stored.
func BenchmarkCold(b *testing.B) {
	const size = 16 << 20
	for _, readers := range []int{1, 50} {
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
				b.Errorf("%d fetches of %d", s.fetches(), b.N)
			}
		})
	}
}

func drain(b *testing.B, e *env, s *source) {
	r, _, err := e.get(s)
	if err != nil {
		b.Error(err)
		return
	}
	defer r.Close()
	if n, err := io.Copy(&sink{make([]byte, 256<<10)}, r); err != nil || n != int64(len(s.content)) {
		b.Errorf("copied %d bytes, %v", n, err)
	}
}

// BenchmarkBytes is a manifest, from memory and from disk.
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
				if _, err := e.cache.Bytes(b.Context(), s.digest, 1<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
