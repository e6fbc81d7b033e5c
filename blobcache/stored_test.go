package blobcache_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// countedFile counts the bytes that are read from it.
type countedFile struct {
	io.ReadSeeker
	read *int64
}

func (f countedFile) Read(p []byte) (int, error) {
	n, err := f.ReadSeeker.Read(p)
	*f.read += int64(n)
	return n, err
}

func (countedFile) Close() error { return nil }

// TestCacheVerifiesUnexpectedSizeOnce checks that repeated requests with a wrong size make the
// cache read and verify the stored file only once.
func TestCacheVerifiesUnexpectedSizeOnce(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, read := e.source(random(90, 100_000)), int64(0)
		e.whole(s)
		synctest.Wait() // until it is stored
		e.store.onOpen = func(digest.Digest) (io.ReadSeekCloser, error) {
			return countedFile{bytes.NewReader(s.content), &read}, nil
		}
		req := s.request("a")
		req.Size = 99_999
		for range 5 {
			r, origin, err := e.cache.Get(t.Context(), req)
			if err != nil || origin != fill.Hit || r.Size() != 100_000 {
				t.Fatalf("got origin %v and the error %v, want origin %v with 100000 bytes and no error", origin, err, fill.Hit)
			}
			_ = r.Close()
		}
		if read < 100_000 || read > 100_100 {
			t.Errorf("got %d bytes read from the file, want 100000 to 100100", read)
		}
		// The cache still detects a file that is cut later.
		e.store.onOpen = nil
		if err := os.WriteFile(e.path(s.digest), s.content[:99_998], 0o600); err != nil {
			t.Fatal(err)
		}
		req.Size = -1
		r, origin, err := e.cache.Get(t.Context(), req)
		if err != nil || origin != fill.Started {
			t.Fatalf("after the file was cut: got origin %v and the error %v, want origin %v and no error", origin, err, fill.Started)
		}
		defer r.Close()
		e.same(r, s.content)
	})
}

// TestCacheRefetchesUnreadableContent checks that the request that finds stored content
// unreadable fetches it again.
func TestCacheRefetchesUnreadableContent(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(91, 100_000))
		e.whole(s)
		synctest.Wait() // until it is stored
		e.store.onOpen = func(digest.Digest) (io.ReadSeekCloser, error) {
			if s.fetches() == 1 {
				return &faultFile{bytes.NewReader(s.content), syscall.EIO, nil}, nil
			}
			return nil, nil
		}
		if origin := e.whole(s); origin != fill.Started || s.fetches() != 2 {
			t.Errorf("got origin %v after %d fetches, want %v after 2", origin, s.fetches(), fill.Started)
		}
		if got := e.troubled(); len(got) != 1 || !strings.HasPrefix(got[0], "heal "+s.digest.String()) || !strings.Contains(got[0], "input/output") {
			t.Errorf("got the storage errors %q, want one on healing %s with an input/output error", got, s.digest)
		}
	})
}

// badSector is a file that cannot be read beyond an offset.
type badSector struct {
	*bytes.Reader
	from int64
}

func (b badSector) Read(p []byte) (int, error) {
	at, _ := b.Seek(0, io.SeekCurrent)
	if at >= b.from {
		return 0, syscall.EIO
	}
	return b.Reader.Read(p[:min(int64(len(p)), b.from-at)])
}

func (badSector) Close() error { return nil }

// TestReaderHealsUnreadableContent checks that a transfer breaks when the stored file becomes
// unreadable, and that the next request fetches the content again.
func TestReaderHealsUnreadableContent(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(92, 1000))
		e.whole(s)
		synctest.Wait() // until it is stored
		e.store.onOpen = func(digest.Digest) (io.ReadSeekCloser, error) {
			if _, err := os.Stat(e.path(s.digest)); err != nil {
				return nil, err
			}
			return badSector{bytes.NewReader(s.content), 500}, nil
		}
		e.broken(e.mustGet(s), s, syscall.EIO)
		synctest.Wait()
		if origin := e.whole(s); origin != fill.Started {
			t.Errorf("got origin %v, want %v", origin, fill.Started)
		}
	})
}

// BenchmarkSendfile measures sending a stored layer to a TCP connection with sendfile(2), which
// does not copy the bytes through the process.
func BenchmarkSendfile(b *testing.B) {
	const size = 64 << 20
	e := newEnv(b, b.TempDir())
	s := e.source(random(94, size))
	if err := e.cache.PutBytes(b.Context(), s.digest, s.content); err != nil {
		b.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}()
	conn, err := net.DialTimeout("tcp", listener.Addr().String(), time.Second)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	req := s.request("a")
	req.Size = size
	b.SetBytes(size)
	for b.Loop() {
		r, _, err := e.cache.Get(context.Background(), req)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := r.WriteTo(conn); err != nil || n != size {
			b.Fatalf("WriteTo: got %d bytes and the error %v, want %d bytes and no error", n, err, size)
		}
		_ = r.Close()
	}
}

// BenchmarkOpen measures opening and closing a stored blob without reading it.
func BenchmarkOpen(b *testing.B) {
	e := newEnv(b, b.TempDir())
	s := e.source(random(95, 100_000))
	if err := e.cache.PutBytes(b.Context(), s.digest, s.content); err != nil {
		b.Fatal(err)
	}
	req := s.request("a")
	req.Size = 100_000
	b.ReportAllocs()
	for b.Loop() {
		r, _, err := e.cache.Get(context.Background(), req)
		if err != nil {
			b.Fatal(err)
		}
		_ = r.Close()
	}
}
