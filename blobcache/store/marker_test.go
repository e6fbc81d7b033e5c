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

// storedContent is a store with one content of so many bytes.
func storedContent(t *testing.T, size int) (s *FileStore, d digest.Digest, name string) {
	t.Helper()
	s, err := OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.StorageError = func(op string, err error) { t.Errorf("trouble: %s: %v", op, err) }
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

// verified returns content of so many bytes, and its digest.
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

// TestMarkerSurvivesUseAndCopy where content is stored, used, and copied with its times.
func TestMarkerSurvivesUseAndCopy(t *testing.T) {
	s, d, name := storedContent(t, 1000)
	if doubtful(t, s, d) {
		t.Error("what was just stored is doubtful")
	}
	used := time.Now().Add(-5 * time.Hour)
	if err := s.Touch(t.Context(), d, used); err != nil || doubtful(t, s, d) {
		t.Errorf("a use makes it doubtful: %v", err)
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
		t.Errorf("a copy with its times is doubtful: %v", err)
	}
	if err := os.WriteFile(name, content, 0o600); err != nil || !doubtful(t, s, d) {
		t.Errorf("what was written to is not doubtful: %v", err)
	}
}

// TestTouchKeepsDoubt what was changed: neither a use nor its time makes it good.
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
		t.Error("it is not doubtful any more")
	}
	if err := open(t, s, d); !errors.Is(err, ErrDamaged) {
		t.Errorf("open: got %v, want %v", err, ErrDamaged)
	}
}

// TestOpenVerifiesUnmarkedOnce although many ask for it at the same time, and not
// again afterwards: then it is the time of the file that counts.
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

// bytesRead is how many bytes this process has read, where that can be told.
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

// TestCheckDetectsConcurrentWrite is noticed: what was read may not be what is there.
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
		_, err = file.WriteAt(other[:n], 0) // behind the one who reads
		return errors.Join(err, file.Close())
	})
	if err != nil || !written {
		t.Errorf("check: %v", err)
	}
	if !doubtful(t, s, d) {
		t.Error("it is marked as verified")
	}
	if err := open(t, s, d); !errors.Is(err, ErrDamaged) {
		t.Errorf("open: got %v, want %v", err, ErrDamaged)
	}
}

// TestOpenWaitsForRecentWrites is verified again a moment later: another write may leave
// the same time.
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
		t.Errorf("it was marked after %v, want %v at least", took, settled)
	}
}

// TestFileStoreWithCoarseTimes have changes left to the scrub: the store says so, and serves.
func TestFileStoreWithCoarseTimes(t *testing.T) {
	s, d, name := storedContent(t, 1000)
	s.coarse = true
	unmark(t, name)
	if s.DetectsChanges() || doubtful(t, s, d) {
		t.Error("it claims to detect changes")
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

// TestMark tells digests and sizes apart, and is never zero.
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
