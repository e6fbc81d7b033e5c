package blobcache

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Find returns stored content of at most limit bytes, and counts its children
// as used too. Content of up to 64 KiB is returned whole, from memory if it was
// read lately; the caller must not change it. Larger content is returned as a
// reader, which the caller must close. If the content is longer than limit,
// damaged or absent, the error is fs.ErrNotExist; damaged content is removed.
func (c *Cache) Find(ctx context.Context, d digest.Digest, limit int64) (small []byte, large *Reader, err error) {
	if content, ok := c.small.Get(d); ok && int64(len(content)) <= limit {
		c.evictor.used(d, true)
		return content, nil, nil
	}
	r := c.open(ctx, d, -1)
	if r == nil {
		return nil, nil, fmt.Errorf("%s: %w", d, fs.ErrNotExist)
	}
	if r.Size() > limit {
		_ = r.Close()
		return nil, nil, fmt.Errorf("%s is longer than %d bytes: %w", d, limit, fs.ErrNotExist)
	}
	if r.Size() > smallLimit {
		c.evictor.used(d, true)
		r.cancel = c.evictor.read(d)
		return nil, r, nil
	}
	defer r.Close()
	small, err = io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		// The reader has removed the content.
		return nil, nil, fmt.Errorf("%s cannot be read: %w", d, fs.ErrNotExist)
	}
	if d.Algorithm().FromBytes(small) != d {
		c.heal(ctx, d, fill.ErrDigestMismatch)
		return nil, nil, fmt.Errorf("%s was damaged: %w", d, fs.ErrNotExist)
	}
	c.evictor.used(d, true)
	c.remember(d, small)
	return small, nil, nil
}

// PutBytes stores content that is in memory and will not be changed. It fails
// only if the content does not have the digest; storage errors go to
// [Hooks.StorageError].
func (c *Cache) PutBytes(ctx context.Context, d digest.Digest, content []byte) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%q: %w", d, err)
	}
	if d.Algorithm().FromBytes(content) != d {
		return fmt.Errorf("%s: %w", d, fill.ErrDigestMismatch)
	}
	c.remember(d, content)
	defer c.fills.Lock(d)()
	if _, ok := c.Has(ctx, d); ok {
		c.evictor.used(d, true)
		return nil
	}
	if err := c.put(ctx, d, content); err != nil {
		c.storageError("store content", err)
	}
	return nil
}

func (c *Cache) put(ctx context.Context, d digest.Digest, content []byte) (err error) {
	size := int64(len(content))
	if err := c.evictor.Fits(ctx, size); err != nil {
		return err
	}
	room := c.evictor.Open("")
	if err := room.Reserve(ctx, size); err != nil {
		return err
	}
	var stored int64
	defer func() {
		c.evictor.used(d, true) // before a sweep can find it
		room.Close(d, stored)
		c.evictor.Failed(err)
	}()
	spool, err := c.blobs.Spool(ctx)
	if err != nil {
		return err
	}
	defer spool.Close()
	if _, err = spool.Write(content); err == nil {
		err = c.blobs.Commit(ctx, d, spool)
	}
	if err != nil {
		store.Discard(spool)
		return err
	}
	stored = size
	return nil
}

func (c *Cache) remember(d digest.Digest, content []byte) {
	if len(content) <= smallLimit {
		c.small.Add(d, content)
	}
}

// Copy stores content of a known size in bytes, which must be small enough for memory,
// from the first of the replicas that has it, and returns it. The caller must not change
// it. Limits are those of the source that has delivered the content. The error is
// [fs.ErrNotExist] if none has it, or the cause of ctx.
func (c *Cache) Copy(ctx context.Context, d digest.Digest, size int64, from []fill.Replica, limits fill.SourceLimits) ([]byte, error) {
	content, err := c.fills.Copy(ctx, d, size, from, limits)
	if err != nil {
		return nil, err
	}
	return content, c.PutBytes(ctx, d, content)
}
