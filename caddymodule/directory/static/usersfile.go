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
	// usersLook is how often a users file is looked at, at most.
	usersLook = 250 * time.Millisecond
	// usersSettle is how long after its last change a users file is left alone,
	// since whoever writes it may not have finished. It is longer than the
	// coarsest clock that file systems take times from, so that a change after
	// the file was read is always seen.
	usersSettle = 200 * time.Millisecond
	// usersLimit is how much a users file may hold, in bytes.
	usersLimit = 16 << 20
)

// usersFile is a file that is read when it is opened, and again when it has
// changed: looked at by the requests that need it, one at a time and not too
// often, so that nothing has to be stopped.
type usersFile struct {
	path   string
	logger *zap.Logger
	take   func(content []byte) (accounts int, err error) // all or nothing

	looked atomic.Pointer[time.Time]

	mu      sync.Mutex
	seen    os.FileInfo // of the version that was taken or found bad
	content [sha256.Size]byte
	trouble string // what was logged last
}

var errUnsettled = errors.New("the file is being written")

// open reads the file for the first time.
func (f *usersFile) open() error {
	content, info, err := f.read()
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
		f.trouble = ""
	case err.Error() != f.trouble:
		f.trouble = err.Error()
		f.logger.Error("the users file cannot be used; the accounts stay as they were", zap.String("file", f.path), zap.Error(err))
	}
}

func (f *usersFile) renew() error {
	info, err := os.Stat(f.path)
	if err != nil {
		f.seen = nil
		return err
	}
	if f.seen != nil && sameVersion(f.seen, info) {
		if f.trouble != "" {
			return errors.New(f.trouble) // as before
		}
		return nil
	}
	if unsettled(info) {
		return errUnsettled
	}
	content, info, err := f.read()
	if err != nil {
		return err
	}
	f.seen, f.trouble = info, "" // what is wrong with this version is news
	sum := sha256.Sum256(content)
	if sum == f.content {
		return nil
	}
	n, err := f.take(content)
	if err != nil {
		return err
	}
	f.content = sum
	f.logger.Info("the users file has changed", zap.String("file", f.path), zap.Int("accounts", n))
	return nil
}

// read returns a whole version of the file, or an error that has its path.
func (f *usersFile) read() ([]byte, os.FileInfo, error) {
	// A pipe would be waited for when it is opened.
	if info, err := os.Stat(f.path); err == nil && !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", f.path)
	}
	file, err := os.Open(f.path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	before, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, usersLimit+1))
	if err != nil {
		return nil, nil, err
	}
	if len(content) > usersLimit {
		return nil, nil, fmt.Errorf("%s is larger than %d MiB", f.path, usersLimit>>20)
	}
	after, err := file.Stat()
	if err == nil && !sameVersion(before, after) {
		err = errUnsettled
	}
	return content, after, err
}

// sameVersion compares what changes with a file in place of another one, and
// with one that is written to.
func sameVersion(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func unsettled(info os.FileInfo) bool {
	age := time.Since(info.ModTime())
	return age >= 0 && age < usersSettle // a time to come tells nothing
}

// takeFile replaces the accounts by those of the configuration and of the
// file's content.
func (s *Directory) takeFile(content []byte) (int, error) {
	if len(content) == 0 {
		return 0, errors.New("it is empty; if there shall be no accounts, leave a line with # in it")
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
		// The line may have the hash where the name should be, and no error
		// shows a hash.
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
