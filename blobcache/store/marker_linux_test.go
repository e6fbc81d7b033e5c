package store

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpenVerifiesUnmarkableOnce checks that a file whose times cannot be set, because it
// belongs to another user, is verified once and not at each Open, until it is written to.
func TestOpenVerifiesUnmarkableOnce(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can act for another user")
	}
	const nobody = 65534
	s, d, name := storedContent(t, 1<<20)
	told := 0
	s.StorageError = func(op string, err error) {
		if told++; !strings.HasPrefix(op, "mark ") {
			t.Errorf("storage error: %s: %v", op, err)
		}
	}
	then := unmark(t, name)
	for folder := filepath.Dir(name); len(folder) >= len(s.root); folder = filepath.Dir(folder) {
		if err := os.Chown(folder, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	openAs := func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		before, _ := unix.SetfsuidRetUid(nobody)
		defer unix.Setfsuid(before)
		return open(t, s, d)
	}
	if err := os.Chmod(filepath.Dir(s.root), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := openAs(); err != nil {
			t.Fatal(err)
		}
	}
	if told != 1 {
		t.Errorf("it was verified %d times, want once", told)
	}
	other, _ := verified(8, 1<<20)
	if err := os.WriteFile(name, other, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, then, then.Add(1)); err != nil {
		t.Fatal(err)
	}
	if err := openAs(); err == nil {
		t.Error("Open after the file was written to: got no error, want one")
	}
}
