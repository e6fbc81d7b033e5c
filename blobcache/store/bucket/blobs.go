package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/minio/minio-go/v7"
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
	if err := s.FileStore.Remove(ctx, d); err != nil {
		return err
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

// Fetch returns the content of d in the bucket from an offset: length bytes, or the rest
// if length is -1. Size is that of the whole content. The content is not verified, and the
// caller must close it. The error is fs.ErrNotExist if the bucket does not have the
// content, and [ErrPaused] if the bucket is left alone after a failure. Fetch waits at
// most five seconds for the first byte; the caller ends a body that stalls.
func (s *Store) Fetch(ctx context.Context, d digest.Digest, offset, length int64) (body io.ReadCloser, size int64, err error) {
	if err := d.Validate(); err != nil {
		return nil, 0, fmt.Errorf("content %q: %w", d, err)
	}
	if err := s.reads.check(); err != nil {
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
		s.reads.note(ctx, err)
		return nil, 0, fmt.Errorf("read %s from the bucket: %w", d, err)
	}
	s.reads.note(ctx, nil)
	s.held.Add(d, o.size)
	return &fetched{ReadCloser: content, cancel: cancel}, o.size, nil
}

// fetched is content whose context ends when it is closed.
type fetched struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (f *fetched) Close() error {
	err := f.ReadCloser.Close()
	f.cancel(nil)
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
	if err := s.FileStore.Delete(ctx, uploadedKey(d)); err != nil {
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
		return nil // it has been uploaded
	}
	content, err := s.FileStore.Open(ctx, d)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, store.ErrDamaged) {
		return nil // it was removed before its turn
	}
	if err != nil {
		return err
	}
	defer content.Close()
	if err := s.upload(ctx, d, content); err != nil {
		return fmt.Errorf("upload %s: %w", d, err)
	}
	// Once the content is gone its mark must go too, and Remove may have run.
	if err := s.FileStore.Save(ctx, uploadedKey(d), nil); err != nil {
		return err
	}
	if _, err := s.FileStore.Stat(ctx, d); errors.Is(err, fs.ErrNotExist) {
		return s.FileStore.Delete(ctx, uploadedKey(d))
	}
	return nil
}

const (
	// askFirst is the size in bytes from which the bucket is asked whether it has the
	// content before it is uploaded.
	askFirst = 64 << 10
	// partSize is the size in bytes above which content is uploaded in parts of this
	// size. With it, content of 640 GiB has the ten thousand parts that there can be.
	partSize = 64 << 20
)

// upload writes content to the bucket unless it is there. The bucket compares it with
// its SHA-256 checksum.
func (s *Store) upload(ctx context.Context, d digest.Digest, content io.ReadSeeker) error {
	size, err := content.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	at, ok := content.(io.ReaderAt)
	if !ok {
		return errors.New("stored content cannot be read at an offset")
	}
	if held, ok := s.held.Get(d); ok && held == size {
		return nil // it came from there
	}
	if size >= askFirst {
		o, err := s.client.stat(ctx, blobName(d))
		if err == nil && o.size == size || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if size > partSize {
		return s.client.putParts(ctx, blobName(d), at, size)
	}
	var sum []byte
	if d.Algorithm() == digest.SHA256 {
		if sum, err = hex.DecodeString(d.Encoded()); err != nil {
			return err
		}
	}
	return s.client.put(ctx, blobName(d), at, size, sum)
}

// put writes an object. Its SHA-256 checksum is calculated if sum is nil.
func (c *client) put(ctx context.Context, name string, content io.ReaderAt, size int64, sum []byte) error {
	if sum == nil {
		var err error
		if sum, err = checksum(content, 0, size); err != nil {
			return err
		}
	}
	options := minio.PutObjectOptions{
		DisableContentSha256: true, // that of chunks; the whole has one
		UserMetadata:         map[string]string{"X-Amz-Checksum-Sha256": base64.StdEncoding.EncodeToString(sum)},
	}
	return c.do(ctx, func() error {
		_, err := c.api.PutObject(ctx, c.bucket, c.prefix+name, io.NewSectionReader(content, 0, size), size, "", hex.EncodeToString(sum), options)
		return err
	})
}

// putBytes writes a small object.
func (c *client) putBytes(ctx context.Context, name string, content []byte) error {
	return c.put(ctx, name, bytes.NewReader(content), int64(len(content)), nil)
}

// putParts writes a large object in parts, one after the other. The parts of an upload
// that fails are removed.
func (c *client) putParts(ctx context.Context, name string, content io.ReaderAt, size int64) (err error) {
	var id string
	err = c.do(ctx, func() (err error) {
		id, err = c.api.NewMultipartUpload(ctx, c.bucket, c.prefix+name, minio.PutObjectOptions{})
		return err
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = c.api.AbortMultipartUpload(context.WithoutCancel(ctx), c.bucket, c.prefix+name, id)
		}
	}()
	var parts []minio.CompletePart
	for from := int64(0); from < size; from += partSize {
		length := min(partSize, size-from)
		sum, err := checksum(content, from, length)
		if err != nil {
			return err
		}
		options := minio.PutObjectPartOptions{Sha256Hex: hex.EncodeToString(sum), DisableContentSha256: true}
		err = c.do(ctx, func() error {
			part, err := c.api.PutObjectPart(ctx, c.bucket, c.prefix+name, id, len(parts)+1, io.NewSectionReader(content, from, length), length, options)
			if err == nil {
				parts = append(parts, minio.CompletePart{PartNumber: part.PartNumber, ETag: part.ETag})
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return c.do(ctx, func() error {
		_, err := c.api.CompleteMultipartUpload(ctx, c.bucket, c.prefix+name, id, parts, minio.PutObjectOptions{})
		return err
	})
}

func checksum(content io.ReaderAt, from, length int64) ([]byte, error) {
	hash := sha256.New()
	n, err := io.Copy(hash, io.NewSectionReader(content, from, length))
	if err == nil && n != length {
		err = io.ErrUnexpectedEOF
	}
	return hash.Sum(nil), err
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
