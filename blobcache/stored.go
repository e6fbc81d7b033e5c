package blobcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Has reports whether content is stored, and its size in bytes.
func (c *Cache) Has(ctx context.Context, d digest.Digest) (size int64, ok bool) {
	r := c.open(ctx, d, -1)
	if r == nil {
		return 0, false
	}
	defer r.Close()
	return r.Size(), true
}

// Used records that content was requested although none of it was read here,
// since a client that is told a digest may have the content. Its children count
// as used too.
func (c *Cache) Used(d digest.Digest) { c.evictor.used(d, true) }

// open returns a reader of stored content, or nil if it is absent, damaged, or
// cannot be opened.
func (c *Cache) open(ctx context.Context, d digest.Digest, size int64) *Reader {
	file, err := c.blobs.Open(ctx, d)
	if err != nil {
		switch {
		case errors.Is(err, store.ErrDamaged):
			c.replace(ctx, d, err)
		case !errors.Is(err, fs.ErrNotExist):
			c.storageError("open stored content", err)
		}
		return nil
	}
	stored, err := probe(file)
	if err == nil && (size >= 0 && stored != size && !c.intact(file, d, stored) || stored == 0 && d != d.Algorithm().FromBytes(nil)) {
		err = fmt.Errorf("got %d bytes, want %d", stored, size)
	}
	if err != nil {
		_ = file.Close()
		c.heal(ctx, d, err)
		return nil
	}
	return &Reader{source: file, size: stored, failed: func(err error) { c.heal(context.WithoutCancel(ctx), d, err) }}
}

// probe measures stored content and reads its first byte: a read error is best
// noticed while the content can still be downloaded instead.
func probe(file io.ReadSeeker) (size int64, err error) {
	if f, ok := file.(*os.File); ok {
		info, err := f.Stat()
		if err != nil || info.Size() == 0 {
			return 0, err
		}
		return info.Size(), readable(f, 0)
	}
	if size, err = file.Seek(0, io.SeekEnd); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil || size == 0 {
		return size, err
	}
	if _, err = io.ReadFull(file, make([]byte, 1)); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	return size, err
}

// readable returns the error of reading one byte at an offset, nil at the end
// of the file. It does not move the file's own offset.
func readable(file *os.File, offset int64) error {
	if _, err := file.ReadAt(make([]byte, 1), offset); err != io.EOF {
		return err
	}
	return nil
}

// intact reports whether content of an unexpected size has its digest. The
// expected size may have been wrong, and must not remove content of others.
// Content is read once, not for each request.
func (c *Cache) intact(file io.ReadSeeker, d digest.Digest, size int64) bool {
	if known, ok := c.sizes.Get(d); ok && known == size {
		return true
	}
	verifier := d.Verifier()
	if _, err := io.Copy(verifier, file); err != nil || !verifier.Verified() {
		return false
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return false
	}
	c.sizes.Add(d, size)
	return true
}

// heal removes damaged content and reports whether it could.
func (c *Cache) heal(ctx context.Context, d digest.Digest, why error) (ok bool) {
	// Several readers may find the same damage at the same time.
	c.removing.Lock()
	defer c.removing.Unlock()
	return c.healed(ctx, d, why)
}

// replace heals content that the store has found damaged, unless another
// request has removed or replaced it meanwhile.
func (c *Cache) replace(ctx context.Context, d digest.Digest, why error) {
	c.removing.Lock()
	defer c.removing.Unlock()
	e, err := c.blobs.Stat(ctx, d)
	if err == nil && !e.Doubtful || errors.Is(err, fs.ErrNotExist) && !errors.Is(err, store.ErrDamaged) {
		return
	}
	c.healed(ctx, d, why)
}

func (c *Cache) healed(ctx context.Context, d digest.Digest, why error) (ok bool) {
	c.small.Remove(d)
	c.sizes.Remove(d)
	if err := c.remove(ctx, d); err != nil {
		c.storageError("remove content", fmt.Errorf("%s: %w; %w", d, why, err))
		return false
	}
	if c.hooks.Healed != nil {
		c.hooks.Healed(d, why)
	}
	return true
}

func (c *Cache) remove(ctx context.Context, d digest.Digest) error {
	e, err := c.blobs.Stat(ctx, d)
	if errors.Is(err, fs.ErrNotExist) {
		e.Size = 0 // gone meanwhile, or no content
	}
	return c.evictor.drop(ctx, d, e.Size)
}

// Reach returns an error if the storage cannot take content. It returns nil if the disk
// is full, because the content that is stored there can still be served.
func (c *Cache) Reach(ctx context.Context) error {
	spool, err := c.blobs.Spool(ctx)
	if err != nil {
		if store.IsFull(err) {
			return nil
		}
		return fmt.Errorf("create a temporary file: %w", err)
	}
	store.Discard(spool)
	return spool.Close()
}
