package static

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// TestUsersFileBeingWritten: a version is read only a while after its last change.
func TestUsersFileBeingWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	taken := 0
	f := &usersFile{path: file, logger: zap.NewNop(), take: func([]byte) (int, error) { taken++; return 0, nil }}
	write := func(text string, age time.Duration) {
		t.Helper()
		at := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chtimes(file, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	write("a", 0)
	if err := f.open(); err != nil || taken != 1 {
		t.Fatalf("taken %d times, %v, want once", taken, err)
	}
	write("ab", 0)
	if err := f.renew(); !errors.Is(err, errUnsettled) || taken != 1 {
		t.Errorf("taken %d times, %v", taken, err)
	}
	write("ab", time.Minute)
	if err := errors.Join(f.renew(), f.renew()); err != nil || taken != 2 {
		t.Errorf("taken %d times, %v", taken, err)
	}
	write("ab", 2*time.Minute) // the same again
	if err := f.renew(); err != nil || taken != 2 {
		t.Errorf("taken %d times, %v", taken, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Minute)
	if err := errors.Join(os.Mkdir(file, 0o700), os.Chtimes(file, past, past)); err != nil {
		t.Fatal(err)
	}
	if err := f.renew(); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a folder: %v", err)
	}
}
