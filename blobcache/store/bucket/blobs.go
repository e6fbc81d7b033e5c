package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Commit implements [store.Blobs]. The content is uploaded later.
func (s *Store) Commit(ctx context.Context, d digest.Digest, spool *os.File) error {
	if err := s.FileStore.Commit(ctx, d, spool); err != nil {
		return err
	}
	s.blobs.add(d.String(), write)
	return nil
}

// Remove implements [store.Blobs]. It removes the local content. The object in the
// bucket stays, as other nodes may use it.
func (s *Store) Remove(ctx context.Context, d digest.Digest) error {
	e, unknown := s.FileStore.Stat(ctx, d)
	if err := s.FileStore.Remove(ctx, d); err != nil {
		return err
	}
	if unknown == nil {
		s.evicted.Add(d, e.Used)
	}
	return s.FileStore.Delete(ctx, uploadedKey(d))
}

// Removable implements [store.Sheltered]: it reports whether the local content is in
// the bucket as well.
func (s *Store) Removable(ctx context.Context, d digest.Digest) bool {
	if d.Validate() != nil {
		return true
	}
	_, err := s.FileStore.Load(ctx, uploadedKey(d))
	return err == nil
}

// stuckAfter is the number of failures in a row, with growing pauses, after which uploads
// are not expected to succeed soon.
const stuckAfter = 4

// Stuck implements [store.Sheltered].
func (s *Store) Stuck(d digest.Digest) bool {
	return s.writes.isDown() || s.blobs.failures(d.String()) >= stuckAfter
}

// Fetch returns the content of d in the bucket from an offset: length bytes, or the rest
// if length is -1. Size is that of the whole content. The content is not verified, and the
// caller must close it. The error is fs.ErrNotExist if the bucket does not have the
// content, and [ErrPaused] if the bucket is left alone after a failure. Fetch waits at
// most five seconds for the first byte; the caller ends a body that stalls.
func (s *Store) Fetch(ctx context.Context, d digest.Digest, offset, length int64) (body io.ReadCloser, size int64, err error) {
	if err := d.Validate(); err != nil {
		return nil, 0, fmt.Errorf("content %q: %w", d, err)
	}
	if err := s.reads.check(blobName(d)); err != nil {
		return nil, 0, err
	}
	asking, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(s.config.waits.answer, func() {
		cancel(fmt.Errorf("the bucket did not answer for %v: %w", s.config.waits.answer, context.DeadlineExceeded))
	})
	content, o, err := s.client.get(asking, blobName(d), offset, length)
	if !timer.Stop() && err == nil {
		_ = content.Close()
		err = context.Cause(asking)
	}
	if err != nil {
		if cause := context.Cause(asking); cause != nil {
			err = cause
		}
		cancel(nil)
		s.noteRead(ctx, blobName(d), err)
		if errors.Is(err, fs.ErrNotExist) {
			s.held.Remove(d)
		}
		return nil, 0, fmt.Errorf("read %s from the bucket: %w", d, err)
	}
	s.noteRead(ctx, blobName(d), nil)
	s.held.Add(d, held{o.size, time.Now()})
	return &fetched{ReadCloser: content, cancel: cancel, done: s.pulls.fetching()}, o.size, nil
}

// fetched is content whose context ends when it is closed.
type fetched struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
	done   func()
}

func (f *fetched) Close() error {
	err := f.ReadCloser.Close()
	f.cancel(nil)
	f.done()
	return err
}

// Reject removes the object of content that did not have its digest when it was
// fetched, soon after it returns. If the content is stored locally by then, it is
// uploaded again.
func (s *Store) Reject(ctx context.Context, d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return err
	}
	s.config.StorageError("read "+d.String()+" from the bucket", store.ErrDamaged)
	s.held.Remove(d)
	s.verified.Forget(d.String())
	if err := errors.Join(s.FileStore.Delete(ctx, uploadedKey(d)), s.Delete(ctx, verifiedKey(d))); err != nil {
		return err
	}
	if !s.blobs.add(d.String(), replace) {
		return s.client.remove(ctx, blobName(d))
	}
	return nil
}

// changeBlob makes a change of the queue of blobs.
func (s *Store) changeBlob(ctx context.Context, name string, c change) error {
	d := digest.Digest(name)
	if c == replace {
		if err := s.client.remove(ctx, blobName(d)); err != nil {
			return err
		}
	} else if s.Removable(ctx, d) {
		return errNotAsked // it has been uploaded
	}
	content, err := s.FileStore.Open(ctx, d)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, store.ErrDamaged) {
		return errNotAsked // it was removed before its turn
	}
	if err != nil {
		return objectError{err}
	}
	defer content.Close()
	err = s.upload(ctx, d, content)
	notAsked := errors.Is(err, errNotAsked)
	if errors.Is(err, store.ErrDamaged) {
		s.config.StorageError("upload "+d.String()+" to the bucket", err)
		return errNotAsked // the scrub, or the next pull, finds it too
	}
	if err != nil && !notAsked {
		return fmt.Errorf("upload %s: %w", d, err)
	}
	// Once the content is gone its mark must go too, and Remove may have run.
	if err := s.FileStore.Save(ctx, uploadedKey(d), nil); err != nil {
		return objectError{err}
	}
	if _, err := s.FileStore.Stat(ctx, d); errors.Is(err, fs.ErrNotExist) {
		_ = s.FileStore.Delete(ctx, uploadedKey(d)) // it costs a few bytes at worst
	}
	if notAsked {
		return errNotAsked
	}
	return nil
}

// findBlobs adds the local content that is not in the bucket to the queue. It waits
// while the queue is full.
func (s *Store) findBlobs(ctx context.Context) error {
	return s.FileStore.Walk(ctx, store.Paced(ctx, store.WalkStride, func(e store.Entry) error {
		if s.Removable(ctx, e.Digest) {
			return nil
		}
		for !s.blobs.add(e.Digest.String(), write) {
			if !store.Pause(ctx, s.config.waits.pause) {
				return ctx.Err()
			}
		}
		return nil
	}))
}
