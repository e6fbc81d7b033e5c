package static

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// usersLook is the shortest time between two looks at a users file.
	usersLook = 250 * time.Millisecond
	// usersSettle is the time after a change in which a users file is not read, since
	// its writer may not have finished. It is longer than the coarsest clock from
	// which file systems take times, so that a change after the file was read is
	// always seen.
	usersSettle = 200 * time.Millisecond
	// usersLimit is the limit on the size of a users file, in bytes.
	usersLimit = 16 << 20
)

// usersFile is a file that is read at the start, and again when it has changed. The
// requests that need it look at it, one at a time and not too often, so there is
// nothing to stop.
type usersFile struct {
	path   string
	logger *zap.Logger
	take   func(content []byte) (accounts int, err error) // all or nothing

	looked atomic.Pointer[time.Time]

	mu      sync.Mutex
	seen    os.FileInfo       // the version that was read last, nil if it must be read again
	problem error             // with that version
	content [sha256.Size]byte // of the version that was taken last
	logged  string            // the problem that was logged last
}

var errUnsettled = errors.New("the file is being written")

// open reads the file for the first time.
func (f *usersFile) open() error {
	var info os.FileInfo
	var content []byte
	err := errUnsettled
	for tries := 0; errors.Is(err, errUnsettled) && tries < 10; tries++ { // it may be replaced meanwhile
		if info, err = os.Stat(f.path); err == nil {
			content, err = f.read(info)
		}
	}
	if err != nil {
		return fmt.Errorf("users file: %w", err)
	}
	if _, err := f.take(content); err != nil {
		return fmt.Errorf("users file %s: %w", f.path, err)
	}
	f.content = sha256.Sum256(content)
	if !unsettled(info) {
		f.seen = info
	}
	return nil
}

// look reads the file again if it has changed.
func (f *usersFile) look() {
	if last := f.looked.Load(); last != nil && time.Since(*last) < usersLook || !f.mu.TryLock() {
		return
	}
	defer f.mu.Unlock()
	err := f.renew()
	if errors.Is(err, errUnsettled) {
		return // the next request looks again
	}
	now := time.Now()
	f.looked.Store(&now)
	switch {
	case err == nil:
		f.logged = ""
	case err.Error() != f.logged:
		f.logged = err.Error()
		f.logger.Error("cannot use the users file; the accounts stay as they were", zap.String("file", f.path), zap.Error(err))
	}
}

// renew takes the present version of the file, unless it was read before.
func (f *usersFile) renew() error {
	info, err := os.Stat(f.path)
	switch {
	case err != nil:
		f.seen = nil
		return err
	case f.seen != nil && sameVersion(f.seen, info):
		return f.problem
	case unsettled(info):
		return errUnsettled
	}
	content, err := f.read(info)
	if err != nil {
		return err
	}
	f.seen, f.problem, f.logged = info, nil, ""
	sum := sha256.Sum256(content)
	if sum == f.content {
		return nil
	}
	n, err := f.take(content)
	if err != nil {
		f.problem = err
		return err
	}
	f.content = sum
	f.logger.Info("the users file has changed", zap.String("file", f.path), zap.Int("accounts", n))
	return nil
}

// read returns the content of a version of the file. Its errors name the file.
func (f *usersFile) read(version os.FileInfo) ([]byte, error) {
	if !version.Mode().IsRegular() { // to open a pipe would block
		return nil, fmt.Errorf("%s is not a regular file", f.path)
	}
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, usersLimit+1))
	if err != nil {
		return nil, err
	}
	if len(content) > usersLimit {
		return nil, fmt.Errorf("%s is larger than %d MiB", f.path, usersLimit>>20)
	}
	after, err := file.Stat()
	if err == nil && !sameVersion(version, after) {
		err = fmt.Errorf("%s: %w", f.path, errUnsettled)
	}
	return content, err
}

// sameVersion reports whether a file was neither replaced nor written to.
func sameVersion(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func unsettled(info os.FileInfo) bool {
	age := time.Since(info.ModTime())
	return age >= 0 && age < usersSettle // a time in the future means nothing
}

// takeFile replaces the accounts by those of the configuration and those in the
// content of the file.
func (s *Directory) takeFile(content []byte) (int, error) {
	if len(content) == 0 {
		return 0, errors.New("the file is empty; if no accounts are intended, write a line with # in it")
	}
	all := &accounts{byName: make(map[string]*User), generation: s.accounts.Load().generation + 1}
	for _, u := range s.Users {
		all.byName[u.Name] = u
		all.list = append(all.list, u)
	}
	n := 0
	for line := range bytes.Lines(bytes.TrimPrefix(content, []byte("\ufeff"))) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		// The hash may stand where the name should be, and no error may show a hash.
		name, hash, ok := strings.Cut(text, ":")
		if !ok || strings.ContainsAny(name[:min(len(name), 1)], "${") {
			return 0, fmt.Errorf("line %d: write NAME:HASH", n)
		}
		if err := s.add(all, &User{Name: name, Hash: strings.TrimSpace(hash)}); err != nil {
			return 0, fmt.Errorf("line %d: %w", n, err)
		}
	}
	s.accounts.Store(all)
	return len(all.list) - len(s.Users), nil
}
