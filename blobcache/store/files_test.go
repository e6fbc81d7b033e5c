package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store/storetest"
)

func openStore(t *testing.T, dir string) *store.FileStore {
	t.Helper()
	s, err := store.OpenFileStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFileStoreConforms(t *testing.T) {
	storetest.RunBlobs(t, func(t *testing.T) store.Blobs { return openStore(t, t.TempDir()) })
	storetest.RunRecords(t, func(t *testing.T) store.Records { return openStore(t, t.TempDir()) })
}

// TestOpenFileStore checks that OpenFileStore creates the directory and its parents, private
// to the user, and leaves no probe in it.
func TestOpenFileStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "var", "cache")
	openStore(t, dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: got %v and the error %v, want the mode 0700 and no error", info, err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(entries) != 0 {
		t.Errorf("temporary files: got %v and the error %v, want none", entries, err)
	}
}

func TestOpenFileStoreFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenFileStore(file); err == nil {
		t.Error("OpenFileStore of a regular file: got no error, want one")
	}
	if os.Geteuid() == 0 {
		return // may write anywhere
	}
	dir := t.TempDir()
	openStore(t, dir)
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenFileStore(dir); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("OpenFileStore of a directory that is not writable: got %v, want %v", err, fs.ErrPermission)
	}
}

// TestOpenRemovesOrphans checks that OpenFileStore removes temporary files of processes that
// have ended, and keeps those of this process.
func TestOpenRemovesOrphans(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	living, err := s.Spool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	orphan := filepath.Join(dir, "tmp", "spool-orphan")
	folder := filepath.Join(dir, "tmp", "folder")
	err = errors.Join(os.WriteFile(orphan, []byte("half"), 0o600), os.MkdirAll(filepath.Join(folder, "deep"), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	// Without file locks, old files count as orphans.
	old := time.Now().Add(-2 * time.Hour)
	if err := errors.Join(os.Chtimes(orphan, old, old), os.Chtimes(folder, old, old)); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir)
	for _, name := range []string{orphan, folder} {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, want it removed", name, err)
		}
	}
	if _, err := os.Lstat(living.Name()); err != nil {
		t.Errorf("the spool of this process: got %v, want it kept", err)
	}
}

func TestCommitReplacesDirectory(t *testing.T) {
	dir := t.TempDir()
	s, d := openStore(t, dir), digest.FromString("content")
	hex := d.Encoded()
	name := filepath.Join(dir, "blobs", "sha256", hex[:2], hex)
	if err := os.MkdirAll(filepath.Join(name, "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), d); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("open: %v", err)
	}
	spool, err := s.Spool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	if _, err := spool.WriteString("content"); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), d, spool); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "content" {
		t.Errorf("got the content %q and the error %v, want %q", got, err, "content")
	}
	if err := s.Remove(t.Context(), d); err != nil {
		t.Error(err)
	}
}

// TestCommitFailsCleanly checks that a Commit that fails stores nothing and leaves the spool to
// its owner.
func TestCommitFailsCleanly(t *testing.T) {
	dir := t.TempDir()
	s, d := openStore(t, dir), digest.FromString("content")
	if err := os.WriteFile(filepath.Join(dir, "blobs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	spool, err := s.Spool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), d, spool); err == nil {
		t.Error("Commit with a file in the place of a folder: got no error, want one")
	}
	if _, err := os.Lstat(spool.Name()); err != nil {
		t.Errorf("the spool after a failed Commit: got %v, want it kept for its owner", err)
	}
	_ = spool.Close()
	if err := s.Commit(t.Context(), d, spool); err == nil {
		t.Error("Commit of a closed spool: got no error, want one")
	}
	if _, err := s.Open(t.Context(), d); err == nil {
		t.Error("Open after a failed Commit: got no error, want one")
	}
}

func TestSaveFailsCleanly(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "refs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), "refs/a/latest", []byte("x")); err == nil {
		t.Error("Save with a file in the place of a folder: got no error, want one")
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(entries) != 0 {
		t.Errorf("got the temporary files %v, want none", entries)
	}
	if err := os.RemoveAll(filepath.Join(dir, "tmp")); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), "links/a", []byte("x")); err == nil {
		t.Error("Save without a folder for temporary files: got no error, want one")
	}
	if _, err := s.Spool(t.Context()); err == nil {
		t.Error("Spool without a folder for temporary files: got no error, want one")
	}
}

// TestRecordsRejectReservedKeys checks that no key of a record names a file of content or a
// temporary file.
func TestRecordsRejectReservedKeys(t *testing.T) {
	s := openStore(t, t.TempDir())
	for _, key := range []string{"blobs/sha256/ab/abcd", "blobs", "tmp/x", "Blobs/x", "TMP"} {
		if err := s.Save(t.Context(), key, []byte("x")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Save %q: got %v, want %v", key, err, fs.ErrInvalid)
		}
		if _, err := s.Load(t.Context(), key); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Load %q: got %v, want %v", key, err, fs.ErrInvalid)
		}
	}
}

// TestWalkIgnoresForeignFiles checks that Walk skips files that the store has not created.
func TestWalkIgnoresForeignFiles(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "blobs", "sha256", "ab", digest.FromString("x").Encoded()), 0o700),
		os.WriteFile(filepath.Join(dir, "blobs", "sha256", "ab", "notes.txt"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "blobs", "sha256", "stray"), nil, 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Walk(t.Context(), func(e store.Entry) error {
		t.Errorf("Walk visited %+v, want no visit", e)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestWalkContinuesAfterError checks that Walk visits the rest, and returns an error, if one
// folder cannot be read.
func TestWalkContinuesAfterError(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		spool, err := s.Spool(t.Context())
		if err == nil {
			defer spool.Close()
			_, err = spool.WriteString("x")
		}
		if err == nil {
			err = s.Commit(t.Context(), algorithm.FromString("x"), spool)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha384"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	visits := 0
	err := s.Walk(t.Context(), func(store.Entry) error { visits++; return nil })
	if err == nil || visits != 2 {
		t.Errorf("got %d visits and the error %v, want 2 and an error", visits, err)
	}
}
