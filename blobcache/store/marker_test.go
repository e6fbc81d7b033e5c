package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// storedContent returns a store, the digest of content of that size in it, and the name of its
// file.
func storedContent(t *testing.T, size int) (s *FileStore, d digest.Digest, name string) {
	t.Helper()
	s, err := OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.StorageError = func(op string, err error) { t.Errorf("storage error: %s: %v", op, err) }
	if !s.DetectsChanges() {
		t.Skip("the file system does not keep markers")
	}
	content, d := verified(7, size)
	spool, err := s.Spool(t.Context())
	if err == nil {
		defer spool.Close()
		_, err = spool.Write(content)
	}
	if err == nil {
		err = s.Commit(t.Context(), d, spool)
	}
	if err != nil {
		t.Fatal(err)
	}
	if name, err = s.content(d); err != nil {
		t.Fatal(err)
	}
	return s, d, name
}

// verified returns size bytes, the same for the same seed, and their digest.
func verified(seed byte, size int) ([]byte, digest.Digest) {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b, digest.FromBytes(b)
}

// unmark gives a file the time that an earlier version would have given it.
func unmark(t *testing.T, name string) time.Time {
	t.Helper()
	then := time.Now().Add(-100 * time.Hour)
	if err := os.Chtimes(name, then, then); err != nil {
		t.Fatal(err)
	}
	return then
}

func doubtful(t *testing.T, s *FileStore, d digest.Digest) bool {
	t.Helper()
	e, err := s.Stat(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return e.Doubtful
}

func open(t *testing.T, s *FileStore, d digest.Digest) error {
	t.Helper()
	file, err := s.Open(t.Context(), d)
	if err == nil {
		_ = file.Close()
	}
	return err
}

// TestMarkerSurvivesUseAndCopy checks that content is not doubtful after it was stored, used, or
// copied with its times, but is after a write to its file.
func TestMarkerSurvivesUseAndCopy(t *testing.T) {
	s, d, name := storedContent(t, 1000)
	if doubtful(t, s, d) {
		t.Error("content that was just stored is doubtful")
	}
	used := time.Now().Add(-5 * time.Hour)
	if err := s.Touch(t.Context(), d, used); err != nil || doubtful(t, s, d) {
		t.Errorf("after a use the content is doubtful, or the error is %v", err)
	}
	if e, err := s.Stat(t.Context(), d); err != nil || e.Used.Unix() != used.Unix() {
		t.Errorf("used: got %v, %v; want %v", e.Used, err, used)
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	content, _ := os.ReadFile(name)
	err = errors.Join(os.Remove(name), os.WriteFile(name, content, 0o600), os.Chtimes(name, info.ModTime(), info.ModTime()))
	if err != nil || doubtful(t, s, d) {
		t.Errorf("a copy with its times is doubtful, or the error is %v", err)
	}
	if err := os.WriteFile(name, content, 0o600); err != nil || !doubtful(t, s, d) {
		t.Errorf("content that was written to is not doubtful, or the error is %v", err)
	}
}

// TestTouchKeepsDoubt checks that content that was changed stays doubtful when a use of it is
// recorded.
func TestTouchKeepsDoubt(t *testing.T) {
	s, d, name := storedContent(t, 1000)
	other, _ := verified(8, 1000)
	if err := os.WriteFile(name, other, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Touch(t.Context(), d, time.Now().Add(-time.Hour)); err != nil {
		t.Error(err)
	}
	if !doubtful(t, s, d) {
		t.Error("changed content is not doubtful after a use")
	}
	if err := open(t, s, d); !errors.Is(err, ErrDamaged) {
		t.Errorf("open: got %v, want %v", err, ErrDamaged)
	}
}

// TestOpenVerifiesUnmarkedOnce checks that content without a marker is read once, by one of many
// concurrent calls of Open, and not again by later ones.
func TestOpenVerifiesUnmarkedOnce(t *testing.T) {
	const size = 8 << 20
	s, d, name := storedContent(t, size)
	then := unmark(t, name)
	before, counted := bytesRead(t)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if err := open(t, s, d); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for range 16 {
		if err := open(t, s, d); err != nil {
			t.Error(err)
		}
	}
	after, _ := bytesRead(t)
	if read := after - before; counted && (read < size || read > size*3/2) {
		t.Errorf("read %d bytes, want %d", read, size)
	}
	if e, err := s.Stat(t.Context(), d); err != nil || e.Doubtful || e.Used.Unix() != then.Unix() {
		t.Errorf("got %+v, %v; want it verified and used at %v", e, err, then)
	}
}

// bytesRead returns how many bytes this process has read. It works on Linux only.
func bytesRead(t *testing.T) (n int64, ok bool) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, false
	}
	for _, digit := range strings.Fields(string(data))[1] {
		n = n*10 + int64(digit-'0')
	}
	return n, true
}

// TestCheckDetectsConcurrentWrite checks that content that is written to during Check is not
// marked as verified.
func TestCheckDetectsConcurrentWrite(t *testing.T) {
	s, d, name := storedContent(t, 1<<20)
	unmark(t, name)
	other, _ := verified(8, 1<<20)
	written := false
	err := s.Check(t.Context(), d, func(_ context.Context, n int) error {
		if written {
			return nil
		}
		written = true
		file, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = file.WriteAt(other[:n], 0) // to bytes that Check has read already
		return errors.Join(err, file.Close())
	})
	if err != nil || !written {
		t.Errorf("check: %v", err)
	}
	if !doubtful(t, s, d) {
		t.Error("the content is marked as verified, want it doubtful")
	}
	if err := open(t, s, d); !errors.Is(err, ErrDamaged) {
		t.Errorf("open: got %v, want %v", err, ErrDamaged)
	}
}

// TestOpenWaitsForRecentWrites checks that a file that was just written to is marked as verified
// only a moment later, since another write might leave the same time.
func TestOpenWaitsForRecentWrites(t *testing.T) {
	s, d, name := storedContent(t, 1000)
	bytes, _ := verified(7, 1000)
	if err := os.WriteFile(name, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := open(t, s, d); err != nil || doubtful(t, s, d) {
		t.Errorf("open: %v", err)
	}
	if took := time.Since(begin); took < settled {
		t.Errorf("the file was marked after %v, want %v at least", took, settled)
	}
}

// TestFileStoreWithCoarseTimes checks that a store on a file system with coarse times says that
// it does not detect changes, and that Check still does.
func TestFileStoreWithCoarseTimes(t *testing.T) {
	s, d, name := storedContent(t, 1000)
	s.coarse = true
	unmark(t, name)
	if s.DetectsChanges() || doubtful(t, s, d) {
		t.Error("DetectsChanges is true or the content is doubtful, want neither")
	}
	other, _ := verified(8, 1000)
	if err := os.WriteFile(name, other, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(t, s, d); err != nil {
		t.Errorf("open: %v", err)
	}
	if err := s.Check(t.Context(), d, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("check: got %v, want %v", err, ErrDamaged)
	}
}

// TestMark checks that marks differ by digest and size, and are whole microseconds between 0 and
// a second, both excluded.
func TestMark(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for n := range byte(100) {
		_, d := verified(n, 100)
		for size := range int64(10) {
			m := mark(d, size)
			if m <= 0 || m >= time.Second || m%time.Microsecond != 0 {
				t.Fatalf("got %v", m)
			}
			seen[m] = true
		}
	}
	if len(seen) < 990 {
		t.Errorf("got %d marks, want about 1000", len(seen))
	}
}
