package bucket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
)

// verifiedFolder has the records of content that a node of the cluster has uploaded in
// parts, which the bucket has compared with their checksums. The value is the size and
// the entity tag of the object.
const verifiedFolder = "verified/"

// verifiedEntries is the number of objects of which it is remembered that the bucket
// has them. They take some 1 MiB.
const verifiedEntries = 4 << 10

func verifiedKey(d digest.Digest) string { return verifiedFolder + digestPath(d) }

// parseVerifiedKey is the reverse of verifiedKey.
func parseVerifiedKey(key string) (digest.Digest, bool) {
	return parseBlobName("blobs/" + strings.TrimPrefix(key, verifiedFolder))
}

func newVerified(w waits) *memo.Cache[object] {
	return memo.New(memo.Config[object]{Size: verifiedEntries, Fresh: w.verified, Timeout: w.record, Judge: w.judge})
}

// SignedURL returns a URL of the bucket from which anybody can read the content of d,
// which has this size in bytes, for a lifetime from a second to seven days. Nobody but its
// reader verifies the content. There is one only for content of more than 64 MiB that a
// node of the cluster has uploaded with checksums, and that was in the bucket within the
// last second. The error is fs.ErrNotExist for other content, and another one while
// the bucket fails.
func (s *Store) SignedURL(ctx context.Context, d digest.Digest, size int64, lifetime time.Duration) (*url.URL, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("content %q: %w", d, err)
	}
	if size <= s.config.partSize {
		return nil, fmt.Errorf("a signed URL for %d bytes: %w", size, fs.ErrNotExist)
	}
	if since, _ := s.reads.state(); !since.IsZero() {
		s.verified.Forget(d.String()) // ask whether the bucket works again
	}
	o, err := s.verified.Get(ctx, d.String(), func(ctx context.Context) (object, error) { return s.findVerified(ctx, d) })
	if err == nil && o.size != size {
		err = fmt.Errorf("the object of %s has %d bytes, want %d: %w", d, o.size, size, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return s.client.sign(ctx, blobName(d), lifetime)
}

// findVerified asks the bucket for the object of content. The error is fs.ErrNotExist
// unless it is one that a node of the cluster has uploaded.
func (s *Store) findVerified(ctx context.Context, d digest.Digest) (object, error) {
	key := verifiedKey(d)
	value, err := s.Load(ctx, key)
	if err != nil {
		return object{}, err
	}
	if err := s.reads.check(blobName(d)); err != nil {
		return object{}, err
	}
	o, err := s.client.stat(ctx, blobName(d))
	s.noteShortRead(ctx, blobName(d), err)
	if err == nil && string(value) != o.String() {
		err = fmt.Errorf("the object of %s was replaced: %w", d, fs.ErrNotExist)
	}
	if errors.Is(err, fs.ErrNotExist) {
		_ = s.Forget(ctx, key) // another node may have uploaded it again, with another record
	}
	if err != nil {
		return object{}, err
	}
	// The bucket keeps what is used, also if it is not stored locally.
	return o, s.Mark(ctx, key, time.Now())
}

// sign returns a signed URL of an object.
func (c *client) sign(ctx context.Context, name string, lifetime time.Duration) (signed *url.URL, err error) {
	err = c.do(ctx, func() error {
		signed, err = c.api.PresignedGetObject(ctx, c.bucket, c.prefix+name, lifetime, nil)
		return err
	})
	return signed, err
}
