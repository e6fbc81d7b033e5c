// Package storetest tests implementations of [store.Blobs] and [store.Records] with
// one suite for each interface, which the implementation's own tests run. The suites
// check what the interfaces promise: absent content is fs.ErrNotExist, content is
// visible only when it is whole, and readers of a key that others write and remove
// never get a mixture of two values.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// RunBlobs tests an implementation of [store.Blobs]. Each call of open
// returns an empty one.
func RunBlobs(t *testing.T, open func(t *testing.T) store.Blobs) {
	tests := map[string]func(*testing.T, store.Blobs){
		"AbsentIsNotExist":      testAbsent,
		"CommitThenOpen":        testCommit,
		"UncommittedIsNotFound": testUncommitted,
		"CommitKeepsTheSpool":   testCommitKeepsSpool,
		"CommitTwice":           testCommitTwice,
		"SpoolsAreSeparate":     testSpools,
		"Remove":                testRemove,
		"RemoveWhileRead":       testRemoveWhileRead,
		"BadDigest":             testBadDigest,
		"Concurrent":            testConcurrent,
		"WalkNothing":           testWalkNothing,
		"WalkAll":               testWalk,
		"WalkStops":             testWalkStops,
		"Stat":                  testStat,
		"Check":                 testCheck,
		"Touch":                 testTouch,
		"Free":                  testFree,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func testAbsent(t *testing.T, s store.Blobs) {
	absent(t, s, digest.FromString("never stored"))
}

func testCommit(t *testing.T, s store.Blobs) {
	for name, content := range map[string]string{"some": "some content", "empty": "", "large": string(bytes.Repeat([]byte("0123456789"), 100_000))} {
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
			t.Run(name+"/"+algorithm.String(), func(t *testing.T) {
				d := algorithm.FromString(content)
				put(t, s, d, content)
				file := found(t, s, d)
				same(t, file, content)
				half := int64(len(content) / 2)
				if off, err := file.Seek(half, io.SeekStart); err != nil || off != half {
					t.Fatalf("seek: %d, %v", off, err)
				}
				same(t, file, content[half:])
				if size, err := file.Seek(0, io.SeekEnd); err != nil || size != int64(len(content)) {
					t.Fatalf("size: %d, %v", size, err)
				}
			})
		}
	}
}

func testUncommitted(t *testing.T, s store.Blobs) {
	const content = "not yet whole"
	spool := spooled(t, s, content)
	absent(t, s, digest.FromString(content))
	if err := os.Remove(spool.Name()); err != nil {
		t.Fatalf("removing a spool that is not committed: %v", err)
	}
	absent(t, s, digest.FromString(content))
}

func testCommitKeepsSpool(t *testing.T, s store.Blobs) {
	const content = "read by those who followed the fill"
	spool := spooled(t, s, content)
	if err := s.Commit(t.Context(), digest.FromString(content), spool); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(spool.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the temporary name after Commit: got %v, want it gone", err)
	}
	same(t, io.NewSectionReader(spool, 0, int64(len(content))), content)
}

func testCommitTwice(t *testing.T, s store.Blobs) {
	const content = "fetched by two processes"
	d := digest.FromString(content)
	put(t, s, d, content)
	first := found(t, s, d)
	put(t, s, d, content)
	same(t, first, content)
	same(t, found(t, s, d), content)
}

func testSpools(t *testing.T, s store.Blobs) {
	one, two := spooled(t, s, "one"), spooled(t, s, "two")
	if one.Name() == two.Name() {
		t.Fatal("two spools have the same name")
	}
	if err := s.Commit(t.Context(), digest.FromString("one"), one); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), digest.FromString("two"), two); err != nil {
		t.Fatal(err)
	}
	same(t, found(t, s, digest.FromString("one")), "one")
	same(t, found(t, s, digest.FromString("two")), "two")
}

func testRemove(t *testing.T, s store.Blobs) {
	const content = "short-lived"
	d := digest.FromString(content)
	if err := s.Remove(t.Context(), d); err != nil {
		t.Fatalf("Remove of absent content: got %v, want no error", err)
	}
	put(t, s, d, content)
	put(t, s, digest.FromString("its neighbour"), "its neighbour")
	if err := s.Remove(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	absent(t, s, d)
	same(t, found(t, s, digest.FromString("its neighbour")), "its neighbour")
	put(t, s, d, content)
	same(t, found(t, s, d), content)
}

func testRemoveWhileRead(t *testing.T, s store.Blobs) {
	const content = "removed under a reader"
	d := digest.FromString(content)
	put(t, s, d, content)
	file := found(t, s, d)
	if err := s.Remove(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	same(t, file, content)
}

func testBadDigest(t *testing.T, s store.Blobs) {
	for _, d := range []digest.Digest{"", "sha256", "sha256:", "sha256:ab", "sha256:../../etc/passwd", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if file, err := s.Open(t.Context(), d); err == nil {
			_ = file.Close()
			t.Errorf("Open of the invalid digest %q: got no error, want one", d)
		}
		if err := s.Commit(t.Context(), d, spooled(t, s, "x")); err == nil {
			t.Errorf("Commit of the invalid digest %q: got no error, want one", d)
		}
		if err := s.Remove(t.Context(), d); err == nil {
			t.Errorf("Remove of the invalid digest %q: got no error, want one", d)
		}
	}
}

// testConcurrent checks that content that is written, removed and read at the same
// time is absent or whole for each reader.
func testConcurrent(t *testing.T, s store.Blobs) {
	content := string(bytes.Repeat([]byte("whole"), 10_000))
	d := digest.FromString(content)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				commit(t, s, d, content)
			}
		})
		all.Go(func() {
			for range 10 {
				if err := s.Remove(t.Context(), d); err != nil {
					t.Errorf("remove: %v", err)
				}
			}
		})
		all.Go(func() {
			for range 50 {
				openWhole(t, s, d, content)
			}
		})
	}
	all.Wait()
	put(t, s, d, content)
	same(t, found(t, s, d), content)
}

func openWhole(t *testing.T, s store.Blobs, d digest.Digest, content string) {
	file, err := s.Open(t.Context(), d)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Errorf("open: %v", err)
		return
	}
	defer file.Close()
	if got, err := io.ReadAll(file); err != nil || string(got) != content {
		t.Errorf("got %d bytes (equal: %t) and the error %v, want %d equal bytes", len(got), string(got) == content, err, len(content))
	}
}

// commit is like put, but does not end the test, so that any goroutine may call it.
func commit(t *testing.T, s store.Blobs, d digest.Digest, content string) {
	spool, err := s.Spool(context.Background())
	if err != nil {
		t.Errorf("spool: %v", err)
		return
	}
	defer spool.Close()
	if _, err := spool.WriteString(content); err != nil {
		t.Errorf("write: %v", err)
	}
	if err := s.Commit(context.Background(), d, spool); err != nil {
		t.Errorf("commit: %v", err)
		_ = os.Remove(spool.Name())
	}
}

func put(t *testing.T, s store.Blobs, d digest.Digest, content string) {
	t.Helper()
	if err := s.Commit(t.Context(), d, spooled(t, s, content)); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

func spooled(t *testing.T, s store.Blobs, content string) *os.File {
	t.Helper()
	spool, err := s.Spool(t.Context())
	if err != nil {
		t.Fatalf("spool: %v", err)
	}
	t.Cleanup(func() { _ = spool.Close() })
	if info, err := spool.Stat(); err != nil || info.Size() != 0 {
		t.Fatalf("a new spool has %d bytes, %v", info.Size(), err)
	}
	if _, err := spool.WriteAt([]byte(content), 0); err != nil {
		t.Fatalf("write: %v", err)
	}
	return spool
}

func found(t *testing.T, s store.Blobs, d digest.Digest) io.ReadSeekCloser {
	t.Helper()
	file, err := s.Open(t.Context(), d)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func absent(t *testing.T, s store.Blobs, d digest.Digest) {
	t.Helper()
	if _, err := s.Open(t.Context(), d); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("open: %v instead of %v", err, fs.ErrNotExist)
	}
}

func same(t *testing.T, r io.Reader, content string) {
	t.Helper()
	if got, err := io.ReadAll(r); err != nil || string(got) != content {
		t.Fatalf("read %d bytes of %d, %v", len(got), len(content), err)
	}
}
