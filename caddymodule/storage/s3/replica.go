package s3

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store/bucket"
)

// replica is a bucket as a source of downloads that is asked before an upstream. It implements
// [fill.Replica].
type replica struct {
	store *bucket.Store
}

// Fetch returns content from an offset: length bytes, or the rest if length is -1. The
// error is fs.ErrNotExist if the bucket does not have the content. While the bucket is
// left alone after a failure, Fetch fails at once.
func (r *replica) Fetch(ctx context.Context, d digest.Digest, offset, length int64) (*fill.Body, error) {
	content, size, err := r.store.Fetch(ctx, d, offset, length)
	if err != nil {
		return nil, err
	}
	body := &fill.Body{ReadCloser: content, Size: size, Offset: offset, End: size}
	if length >= 0 {
		body.End = min(offset+length, size)
	}
	return body, nil
}

// Failed is told why content of the bucket was given up. The object goes if it does not
// have its digest.
func (r *replica) Failed(d digest.Digest, err error) {
	if errors.Is(err, fill.ErrDigestMismatch) {
		_ = r.store.Reject(context.Background(), d) // reported; the object stays in the way at worst
		return
	}
	r.store.GivenUp(d, err)
}
