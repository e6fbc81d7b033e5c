//go:build linux || darwin || freebsd

package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// TestRecordsReplaceIrregularFiles checks that anything but a regular file in the place of a
// record counts as absent, is reported and removed, and that Save then writes the record.
func TestRecordsReplaceIrregularFiles(t *testing.T) {
	const key = "links/acme/_/sha256/ab"
	for name, put := range map[string]func(name string) error{
		"symbolic link": func(name string) error {
			other := name + ".other"
			return errors.Join(os.WriteFile(other, []byte("1"), 0o600), os.Symlink(other, name))
		},
		"named pipe": func(name string) error { return syscall.Mkfifo(name, 0o600) },
		"folder":     func(name string) error { return os.MkdirAll(filepath.Join(name, "deep"), 0o700) },
		"symbolic link in place of a folder": func(name string) error {
			folder, elsewhere := filepath.Dir(filepath.Dir(name)), filepath.Join(t.TempDir(), "elsewhere")
			err := errors.Join(os.RemoveAll(folder), os.MkdirAll(filepath.Join(elsewhere, "sha256"), 0o700), os.Symlink(elsewhere, folder))
			return errors.Join(err, os.WriteFile(name, []byte("1"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir)
			var told []string
			s.StorageError = func(op string, err error) { told = append(told, op+": "+err.Error()) }
			if err := os.MkdirAll(filepath.Join(dir, "links/acme/_/sha256"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := put(filepath.Join(dir, key)); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Load(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("load: got %q, %v; want %v", got, err, fs.ErrNotExist)
			}
			if len(told) != 1 || !strings.Contains(told[0], "folder") && !strings.Contains(told[0], "link") && !strings.Contains(told[0], "pipe") {
				t.Errorf("got the storage errors %q, want one that says what was removed", told)
			}
			if err := s.Save(t.Context(), key, []byte("2")); err != nil {
				t.Errorf("save: %v", err)
			}
			if got, err := s.Load(t.Context(), key); err != nil || !bytes.Equal(got, []byte("2")) {
				t.Errorf("load after save: got %q and the error %v, want %q", got, err, "2")
			}
			found := 0
			if err := s.List(t.Context(), "links", func(store.Record) error { found++; return nil }); err != nil || found == 0 {
				t.Errorf("list: got %d records and the error %v, want some and none", found, err)
			}
		})
	}
}

// TestOpenWithIrregularTemporaryFiles checks that OpenFileStore does not follow symbolic links
// when it removes temporary files, and does not wait for named pipes.
func TestOpenWithIrregularTemporaryFiles(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	kept := filepath.Join(elsewhere, "spool-of-somebody")
	err := errors.Join(os.WriteFile(kept, []byte("kept"), 0o600), os.Symlink(elsewhere, filepath.Join(dir, "tmp")))
	if err != nil {
		t.Fatal(err)
	}
	openStore(t, dir)
	if _, err := os.Lstat(kept); err != nil {
		t.Errorf("the file in the folder to which tmp was a link: got %v, want it kept", err)
	}
	pipe, link := filepath.Join(dir, "tmp", "spool-pipe"), filepath.Join(dir, "tmp", "spool-link")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink(kept, link)); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir)
	if got, err := os.ReadFile(kept); err != nil || string(got) != "kept" {
		t.Errorf("the file to which a temporary file was a link: got %q and the error %v, want it kept", got, err)
	}
}
