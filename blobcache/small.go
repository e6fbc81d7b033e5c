package blobcache

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
)

// Bytes returns the whole of some stored content, from memory if it was read
// lately. What it names counts as used too. It must not be changed. Content longer than limit bytes, damaged or
// absent is an error that is fs.ErrNotExist; damaged content is dropped.
func (c *Cache) Bytes(ctx context.Context, d digest.Digest, limit int64) ([]byte, error) {
	if content, ok := c.small.Get(d); ok && int64(len(content)) <= limit {
		c.keeper.used(d, true)
		return content, nil
	}
	r := c.open(ctx, d, -1)
	if r == nil {
		return nil, fmt.Errorf("%s: %w", d, fs.ErrNotExist)
	}
	defer r.Close()
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		// The reader has seen to it that it is not found again.
		return nil, fmt.Errorf("%s cannot be read: %w", d, fs.ErrNotExist)
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes: %w", d, limit, fs.ErrNotExist)
	}
	if d.Algorithm().FromBytes(content) != d {
		c.heal(ctx, d, ErrDigestMismatch)
		return nil, fmt.Errorf("%s was damaged: %w", d, fs.ErrNotExist)
	}
	c.keeper.used(d, true)
	c.remember(d, content)
	return content, nil
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
	spool, err := c.store.Spool(ctx)
	if err != nil {
		return err
	}
	defer spool.Close()
	if _, err = spool.Write(content); err == nil {
		err = c.store.Commit(ctx, d, spool)
	}
	if err != nil {
		discard(spool)
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
