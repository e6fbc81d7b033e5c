package fill

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
)

// randomBytes returns size bytes that are the same for a seed.
func randomBytes(seed byte, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// freshSpool returns a spool for content of that size, which is not hashed yet, with that
// number of readers, and a segment for the whole content.
func freshSpool(t *testing.T, size int64, readers int) (*spool, *segment) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	s := new(spool)
	s.init(1 + readers)
	s.start(file, size, false)
	t.Cleanup(func() {
		s.dropChunks()
		_ = file.Close()
		if n := buffer.LargeInUse(); n != 0 {
			t.Errorf("got %d large buffers in use at the end, want 0", n)
		}
	})
	return s, s.hold(0, size)
}

// feed puts the content into the spool in chunks of that size, from the offset at which the
// segment continues.
func feed(ctx context.Context, t *testing.T, s *spool, seg *segment, content []byte, size int) {
	t.Helper()
	buf := buffer.Take(size > buffer.Small)
	defer func() { buf.Release() }()
	for len(content) > 0 && ctx.Err() == nil {
		n := copy(buf.B, content[:min(size, len(content))])
		var err error
		if buf, err = s.put(ctx, seg, buf, n); err != nil {
			t.Fatal(err)
		}
		content = content[n:]
	}
}

// TestSpoolLend checks that bytes that have just come are lent from memory, except for the last
// byte of the content, and that they stay valid while they are lent.
func TestSpoolLend(t *testing.T) {
	want := randomBytes(1, 300_000)
	s, seg := freshSpool(t, 300_000, 1)
	feed(t.Context(), t, s, seg, want, 100_000)
	for _, row := range []struct{ off, most, n int64 }{
		{0, 1 << 20, 100_000},
		{10, 20, 20},
		{99_999, 1 << 20, 1},
		{100_000, 1 << 20, 100_000},
		{299_990, 1 << 20, 9},
		{299_999, 1 << 20, 0},
		{300_000, 1 << 20, 0},
	} {
		p, back := s.lend(row.off, row.most)
		if int64(len(p)) != row.n || !bytes.Equal(p, want[row.off:row.off+row.n]) {
			t.Errorf("from byte %d on: got %d bytes, or wrong ones, want %d", row.off, len(p), row.n)
		}
		if back != nil {
			back()
		}
	}
	// A chunk that is lent outlives its hashing.
	p, back := s.lend(0, 10)
	s.dropChunks()
	other := buffer.Take(false)
	clear(other.B)
	if !bytes.Equal(p, want[:10]) {
		t.Error("a buffer was used again while it was lent")
	}
	other.Release()
	back()
	if p, _ := s.lend(0, 10); p != nil {
		t.Error("got bytes that are no longer in memory, want none")
	}
}

// TestSpoolLendsToFewReaders checks that memory is lent to at most maxBorrowers readers.
func TestSpoolLendsToFewReaders(t *testing.T) {
	want := randomBytes(2, 1000)
	s, seg := freshSpool(t, 1000, maxBorrowers)
	feed(t.Context(), t, s, seg, want, 1000)
	if p, back := s.lend(0, 10); p == nil {
		t.Error("with few readers: got no bytes, want some")
	} else {
		back()
	}
	if !s.acquire() {
		t.Fatal("no further reader may join")
	}
	if p, _ := s.lend(0, 10); p != nil {
		t.Error("with one reader more: got bytes, want none")
	}
}

// TestSpoolWaitsForHasher checks that put waits when maxChunks chunks wait to be hashed, until
// some are hashed or the context ends.
func TestSpoolWaitsForHasher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		want := randomBytes(3, 2*maxChunks*n)
		s, seg := freshSpool(t, int64(len(want)), 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer context.AfterFunc(ctx, s.wake)()
		fed := make(chan struct{})
		go func() {
			feed(ctx, t, s, seg, want, n)
			close(fed)
		}()
		synctest.Wait()
		if s.written != maxChunks*n {
			t.Errorf("with no chunk hashed: got %d bytes taken, want %d", s.written, maxChunks*n)
		}
		for off := int64(0); off < 3*n; {
			c, _, err := s.awaitHashing(ctx, off)
			if err != nil || c.buf == nil || !bytes.Equal(c.buf.B[:c.n], want[off:][:n]) {
				t.Fatalf("at %d: %d bytes from memory, %v", off, c.n, err)
			}
			c.buf.Release()
			off = c.end()
		}
		synctest.Wait()
		if s.written != (maxChunks+3)*n {
			t.Errorf("with three chunks hashed: got %d bytes taken, want %d", s.written, (maxChunks+3)*n)
		}
		cancel()
		<-fed
	})
}

// TestSpoolHashesOutOfOrder checks that bytes that came before their turn are read back from
// the file, and that the ones after them are hashed from memory again.
func TestSpoolHashesOutOfOrder(t *testing.T) {
	want := randomBytes(4, 3000)
	s, first := freshSpool(t, 3000, 1)
	first.end = 1000
	second := s.hold(1000, 2000)
	feed(t.Context(), t, s, second, want[1000:2000], 500)
	if len(s.chunks.list) != 0 {
		t.Errorf("got %d chunks in memory that cannot be hashed yet, want 0", len(s.chunks.list))
	}
	feed(t.Context(), t, s, first, want[:1000], 1000)
	s.yield(first)
	s.yield(second)
	c, _, err := s.awaitHashing(t.Context(), 0)
	if err != nil || c.end() != 1000 {
		t.Fatalf("first a chunk up to %d, %v", c.end(), err)
	}
	c.buf.Release()
	c, have, err := s.awaitHashing(t.Context(), 1000)
	if err != nil || c.buf != nil || have != 2000 {
		t.Fatalf("then the file up to %d, %v", have, err)
	}
	feed(t.Context(), t, s, s.hold(2000, 3000), want[2000:], 1000)
	if c, _, err = s.awaitHashing(t.Context(), 2000); err != nil || c.end() != 3000 {
		t.Fatalf("at last a chunk up to %d, %v", c.end(), err)
	}
	c.buf.Release()
	if _, _, err = s.awaitHashing(t.Context(), 3000); err != io.EOF {
		t.Errorf("at the end: got the error %v, want %v", err, io.EOF)
	}
}

// TestSpoolPutAfterHashingEnded checks that at most maxChunks chunks are kept in memory when a
// connection still brings bytes after the fill has ended.
func TestSpoolPutAfterHashingEnded(t *testing.T) {
	want := randomBytes(5, 4*maxChunks*1000)
	s, seg := freshSpool(t, int64(len(want)), 1)
	ctx, cancel := context.WithCancel(t.Context())
	feed(ctx, t, s, seg, want[:1000], 1000)
	cancel()
	buf := buffer.Take(false)
	defer func() { buf.Release() }()
	for off := 1000; off < len(want); off += 1000 {
		var err error
		if buf, err = s.put(ctx, seg, buf, copy(buf.B, want[off:][:1000])); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.chunks.list); n != maxChunks {
		t.Errorf("got %d chunks in memory, want %d", n, maxChunks)
	}
}

// TestSpoolReadsBackWhenFarBehind checks that the hasher reads back no more than readBack bytes
// at once, and that chunks are kept for it only once it reads back the rest.
func TestSpoolReadsBackWhenFarBehind(t *testing.T) {
	const late = 1000 + readBack + 2000
	want := randomBytes(6, late+2*1000)
	s, first := freshSpool(t, int64(len(want)), 1)
	first.end = 1000
	second := s.hold(1000, int64(len(want)))
	feed(t.Context(), t, s, second, want[1000:late], 1<<20)
	feed(t.Context(), t, s, first, want[:1000], 1000)
	s.yield(first)
	c, _, err := s.awaitHashing(t.Context(), 0)
	if err != nil || c.end() != 1000 {
		t.Fatalf("the first chunk: got one up to %d and the error %v, want one up to 1000", c.end(), err)
	}
	c.buf.Release()
	for _, step := range []struct {
		off, have int64 // what is hashed, and what is read back then
		kept      int   // chunks in memory of the next bytes
	}{{1000, 1000 + readBack, 0}, {1000 + readBack, late + 1000, 1}} {
		_, have, err := s.awaitHashing(t.Context(), step.off)
		if err != nil || have != step.have {
			t.Fatalf("from byte %d on: got the file up to %d and the error %v, want it up to %d", step.off, have, err, step.have)
		}
		feed(t.Context(), t, s, second, want[second.at:second.at+1000], 1000)
		if n := len(s.chunks.list); n != step.kept {
			t.Errorf("from byte %d on: got %d chunks kept, want %d", step.off, n, step.kept)
		}
	}
}

// TestSpoolHoldsUpFastSource checks that needsWorkers does not take a source for slow while its
// worker waits for the hasher.
func TestSpoolHoldsUpFastSource(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		file, err := os.Create(filepath.Join(dir, "spool"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		f := new(fill)
		f.init(1)
		f.start(file, 1<<30, false)
		defer f.dropChunks()
		feed(t.Context(), t, &f.spool, f.hold(0, 1<<20), make([]byte, maxChunks*1000), 1000)
		var slow time.Duration
		begin, done := time.Now(), make(chan struct{})
		go func() {
			if f.needsWorkers(nil) {
				slow = time.Since(begin)
			}
			close(done)
		}()
		time.Sleep(time.Second)
		for off := int64(0); off < maxChunks*1000; off += 1000 {
			c, _, err := f.awaitHashing(t.Context(), off)
			if err != nil || c.buf == nil {
				t.Fatal(err)
			}
			c.buf.Release()
		}
		<-done
		if slow < time.Second || slow > time.Second+2*speedInterval {
			t.Errorf("needsWorkers returned after %v, want %v to %v", slow, time.Second, time.Second+2*speedInterval)
		}
	})
}
