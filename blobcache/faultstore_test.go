package blobcache_test

import (
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// faultStore is a FileStore whose operations first call the function of a test, if it is
// set, which can wait or make the operation fail.
type faultStore struct {
	*store.FileStore

	onOpen   func(d digest.Digest) (io.ReadSeekCloser, error) // opens the file as usual if it returns nil, nil
	opened   func(d digest.Digest)                            // called by Open before it returns
	onSpool  func(spool *os.File) error
	onCommit func() error
	onRemove func() error

	spool atomic.Pointer[os.File] // the one that Spool returned last
}

func (s *faultStore) Open(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	if s.onOpen != nil {
		if file, err := s.onOpen(d); file != nil || err != nil {
			return file, err
		}
	}
	file, err := s.FileStore.Open(ctx, d)
	if s.opened != nil {
		s.opened(d)
	}
	return file, err
}

func (s *faultStore) Spool(ctx context.Context) (*os.File, error) {
	spool, err := s.FileStore.Spool(ctx)
	if err == nil && s.onSpool != nil {
		if err = s.onSpool(spool); err != nil {
			_ = spool.Close()
			_ = os.Remove(spool.Name())
			return nil, err
		}
	}
	s.spool.Store(spool)
	return spool, err
}

// refuseSpools makes Spool fail.
func (s *faultStore) refuseSpools() {
	s.onSpool = func(*os.File) error { return errors.New("no space left on device") }
}

func (s *faultStore) Commit(ctx context.Context, d digest.Digest, spool *os.File) error {
	if s.onCommit != nil {
		if err := s.onCommit(); err != nil {
			return err
		}
	}
	return s.FileStore.Commit(ctx, d, spool)
}

func (s *faultStore) Remove(ctx context.Context, d digest.Digest) error {
	if s.onRemove != nil {
		if err := s.onRemove(); err != nil {
			return err
		}
	}
	return s.FileStore.Remove(ctx, d)
}

// faultFile is an opened file whose Read and Seek fail if their errors are set.
type faultFile struct {
	io.ReadSeeker
	readErr, seekErr error
}

func (f *faultFile) Read(p []byte) (int, error) {
	if f.readErr != nil {
		return 0, f.readErr
	}
	return f.ReadSeeker.Read(p)
}

func (f *faultFile) Seek(offset int64, whence int) (int64, error) {
	if f.seekErr != nil {
		return 0, f.seekErr
	}
	return f.ReadSeeker.Seek(offset, whence)
}

func (f *faultFile) Close() error { return nil }
