package blobcache

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Find returns stored content of at most limit bytes, all that it names counting as
// used. Small content, up to 64 KiB, is returned whole, from memory if it was read
// lately, and must not be changed. Larger content, of which each reader would take
// as much memory, is returned as a reader that must be closed. Content that is longer
// than limit, damaged or absent is an error that is fs.ErrNotExist; damaged content
// is dropped.
func (c *Cache) Find(ctx context.Context, d digest.Digest, limit int64) (small []byte, large *Reader, err error) {
	if content, ok := c.small.Get(d); ok && int64(len(content)) <= limit {
		c.keeper.used(d, true)
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
		c.keeper.used(d, true)
		r.cancel = c.keeper.read(d)
		return nil, r, nil
	}
	defer r.Close()
	small, err = io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		// The reader has seen to it that it is not found again.
		return nil, nil, fmt.Errorf("%s cannot be read: %w", d, fs.ErrNotExist)
	}
	if d.Algorithm().FromBytes(small) != d {
		c.heal(ctx, d, ErrDigestMismatch)
		return nil, nil, fmt.Errorf("%s was damaged: %w", d, fs.ErrNotExist)
	}
	c.keeper.used(d, true)
	c.remember(d, small)
	return small, nil, nil
}

// PutBytes stores content that the caller already has whole, and will not
// change any more. It fails only if the content does not have the digest;
// storage trouble goes to the hook.
func (c *Cache) PutBytes(ctx context.Context, d digest.Digest, content []byte) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%q: %w", d, err)
	}
	if d.Algorithm().FromBytes(content) != d {
		return fmt.Errorf("%s: %w", d, ErrDigestMismatch)
	}
	c.remember(d, content)
	one := &c.committing[c.slot(d)]
	one.Lock()
	defer one.Unlock()
	if _, ok := c.Has(ctx, d); ok {
		c.keeper.used(d, true)
		return nil
	}
	if err := c.put(ctx, d, content); err != nil {
		c.trouble("store content", err)
	}
	return nil
}

func (c *Cache) put(ctx context.Context, d digest.Digest, content []byte) (err error) {
	size := int64(len(content))
	if err := c.keeper.fits(ctx, size); err != nil {
		return err
	}
	var room reservation
	if err := c.keeper.reserve(ctx, &room, size); err != nil {
		return err
	}
	var stored int64
	defer func() {
		c.keeper.settle(&room, 0, d, stored)
		c.keeper.failed(err)
		c.keeper.used(d, true)
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
