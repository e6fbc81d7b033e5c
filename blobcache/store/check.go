package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// settled is how long a file must not have been written to before it is
	// marked as verified. File systems count time in steps, so two writes at
	// the same moment may leave the same time.
	settled = time.Second

	// openTries is how often Open verifies content that changes meanwhile
	// before it gives up.
	openTries = 3
)

// Open implements [Blobs].
func (s *FileStore) Open(_ context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	name, err := s.content(d)
	if err != nil {
		return nil, err
	}
	for range openTries {
		file, info, err := s.open(name, os.O_RDONLY)
		if err != nil {
			return nil, err
		}
		if s.intact(d, info) || s.wasVerified(d, info) {
			return file, nil
		}
		// The file was written to, or a version without markers stored it. The
		// context of one waiting caller must not end the verification for the
		// others.
		checked, err, _ := s.checks.Do(d.String(), func() (any, error) {
			return s.check(context.Background(), d, nil)
		})
		if err == nil {
			if info, err = file.Stat(); err == nil && (s.intact(d, info) || same(info, checked.(fs.FileInfo))) {
				return file, nil
			}
		}
		_ = file.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s keeps changing while it is verified", name)
}

// Check implements [Blobs].
func (s *FileStore) Check(ctx context.Context, d digest.Digest, wait func(context.Context, int) error) error {
	_, err := s.check(ctx, d, wait)
	return err
}

// check compares content with its digest, marks it as verified if it is not
// marked, and returns the file's description after that.
func (s *FileStore) check(ctx context.Context, d digest.Digest, wait func(context.Context, int) error) (fs.FileInfo, error) {
	name, err := s.content(d)
	if err != nil {
		return nil, err
	}
	file, before, err := s.open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var after fs.FileInfo
	for {
		began := time.Now()
		if err := verify(ctx, d, file, wait); err != nil {
			return nil, err
		}
		after, err = file.Stat()
		if err != nil || s.intact(d, after) {
			return after, err
		}
		if !same(before, after) {
			return before, nil // the file is being written to
		}
		if began.Sub(before.ModTime()).Abs() >= settled {
			break
		}
		select {
		case <-time.After(settled):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
	}
	if err := setTimes(file, stamped(before.ModTime(), d, before.Size())); err != nil {
		s.storageError("mark "+d.String()+" as verified", err)
		s.unmarked.Add(d, after)
	}
	return file.Stat()
}

// wasVerified reports whether a file that cannot be marked is unchanged since
// it was verified.
func (s *FileStore) wasVerified(d digest.Digest, info fs.FileInfo) bool {
	known, ok := s.unmarked.Get(d)
	return ok && same(known, info)
}

// verifyBuffer is the number of bytes that are read at once to verify content.
const verifyBuffer = 64 << 10

var verifyBuffers = sync.Pool{New: func() any { return new([verifyBuffer]byte) }}

// verify reads content to its end and compares it with its digest.
func verify(ctx context.Context, d digest.Digest, content io.Reader, wait func(context.Context, int) error) error {
	verifier := d.Verifier()
	buf := verifyBuffers.Get().(*[verifyBuffer]byte)
	defer verifyBuffers.Put(buf)
	for {
		n, err := content.Read(buf[:])
		_, _ = verifier.Write(buf[:n])
		switch {
		case err == io.EOF && !verifier.Verified():
			return fmt.Errorf("%w: it has another digest", ErrDamaged)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if wait != nil {
			if err := wait(ctx, n); err != nil {
				return err
			}
		}
	}
}

// same reports whether a file is unchanged.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func (s *FileStore) storageError(op string, err error) {
	if s.StorageError != nil && !errors.Is(err, fs.ErrNotExist) {
		s.StorageError(op, err)
	}
}
