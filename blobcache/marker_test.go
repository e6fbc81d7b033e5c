package blobcache

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// shelved is a store with one content of so many bytes.
func shelved(t *testing.T, size int) (s *FileStore, d digest.Digest, name string) {
	t.Helper()
	s, err := OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.Trouble = func(op string, err error) { t.Errorf("trouble: %s: %v", op, err) }
	if !s.DetectsChanges() {
		t.Skip("the file system does not keep markers")
	}
	content, d := content(7, size)
	if err := keptOn(t, s, Limits{}).PutBytes(t.Context(), d, content); err != nil {
		t.Fatal(err)
	}
	if name, err = s.content(d); err != nil {
		t.Fatal(err)
	}
	return s, d, name
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

// TestMarkerStays where content is stored, used, and copied with its times.
func TestMarkerStays(t *testing.T) {
	s, d, name := shelved(t, 1000)
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

// TestUseDoesNotBless what was changed: neither a use nor its time makes it good.
func TestUseDoesNotBless(t *testing.T) {
	s, d, name := shelved(t, 1000)
	other, _ := content(8, 1000)
	if err := os.WriteFile(name, other, 0o600); err != nil {
		t.Fatal(err)
	}
	c := keptOn(t, s, Limits{})
	c.Used(d)
	c.Flush(t.Context())
	if err := s.Touch(t.Context(), d, time.Now().Add(-time.Hour)); err != nil {
		t.Error(err)
	}
	if !doubtful(t, s, d) {
		t.Error("it is not doubtful any more")
	}
	if err := open(t, s, d); !errors.Is(err, ErrDamaged) {
		t.Errorf("open: got %v, want %v", err, ErrDamaged)
	}
	if origin := pull(t, c, 7, 1000); origin != Led {
		t.Errorf("pull: got origin %v, want %v", origin, Led)
	}
}

// TestUnmarkedIsVerifiedOnce although many ask for it at the same time, and not
// again afterwards: then it is the time of the file that counts.
func TestUnmarkedIsVerifiedOnce(t *testing.T) {
	const size = 8 << 20
	s, d, name := shelved(t, size)
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

// TestWriteWhileVerified is noticed: what was read may not be what is there.
func TestWriteWhileVerified(t *testing.T) {
	s, d, name := shelved(t, 1<<20)
	unmark(t, name)
	other, _ := content(8, 1<<20)
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

// TestWrittenJustNow is verified again a moment later: another write may leave
// the same time.
func TestWrittenJustNow(t *testing.T) {
	s, d, name := shelved(t, 1000)
	bytes, _ := content(7, 1000)
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

// TestDoubtfulComesFirst in the background, and is counted.
func TestDoubtfulComesFirst(t *testing.T) {
	s, err := OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := keptOn(t, s, Limits{})
	told := make(chan Scrubbing, 2)
	c.hooks.Scrubbed = func(found Scrubbing) { told <- found }
	for n := range 10 {
		pull(t, c, n, 1000)
	}
	var old []digest.Digest
	for n := range 4 {
		_, d := content(n, 1000)
		name, _ := s.content(d)
		unmark(t, name)
		old = append(old, d)
	}
	name, _ := s.content(old[0])
	if err := os.Truncate(name, 999); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var keeping sync.WaitGroup
	keeping.Go(func() { c.keepScrubbing(ctx) })
	if found := <-told; found.Checked != 4 || found.Damaged != 1 || found.Healed != 1 {
		t.Errorf("first: got %+v, want 4 checked and 1 of them healed", found)
	}
	for _, d := range old[1:] {
		if doubtful(t, s, d) {
			t.Errorf("%s is doubtful yet", d)
		}
	}
	if found := <-told; found.Checked != 9 || found.Damaged != 0 {
		t.Errorf("then: got %+v, want 9 checked", found)
	}
	cancel()
	keeping.Wait()
}

// TestCoarseTimes have changes left to the scrub: the store says so, and serves.
func TestCoarseTimes(t *testing.T) {
	s, d, name := shelved(t, 1000)
	s.coarse = true
	unmark(t, name)
	if s.DetectsChanges() || doubtful(t, s, d) {
		t.Error("it claims to detect changes")
	}
	other, _ := content(8, 1000)
	if err := os.WriteFile(name, other, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(t, s, d); err != nil {
		t.Errorf("open: %v", err)
	}
	if found, err := keptOn(t, s, Limits{}).Scrub(t.Context(), 0); err != nil || found.Healed != 1 {
		t.Errorf("scrub: got %+v, %v; want 1 healed", found, err)
	}
}

// TestMark tells digests and sizes apart, and is never zero.
func TestMark(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for n := range 100 {
		_, d := content(n, 100)
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
