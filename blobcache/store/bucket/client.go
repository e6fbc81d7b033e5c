package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/singleflight"
)

// client asks a bucket. All names are those of objects without the prefix. An absent
// object is an fs.ErrNotExist.
type client struct {
	api         *minio.Core
	credentials *credentials.Credentials
	identities  singleflight.Group // of questions for the credentials
	bucket      string
	prefix      string
	meter       *meter
}

func newClient(c Config) (*client, error) {
	lookup := minio.BucketLookupDNS
	if c.PathStyle {
		lookup = minio.BucketLookupPath
	}
	counted := &meter{next: c.transport, requested: c.Requested, transferred: c.Transferred}
	api, err := minio.NewCore(c.Endpoint, &minio.Options{
		Creds:        c.Credentials,
		Secure:       !c.Plain,
		Transport:    counted,
		Region:       c.Region,
		BucketLookup: lookup,
		MaxRetries:   1, // the store decides when to ask again
	})
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", c.Bucket, err)
	}
	return &client{api: api, credentials: c.Credentials, bucket: c.Bucket, prefix: c.Prefix, meter: counted}, nil
}

// object is what the bucket says about an object.
type object struct {
	size     int64 // of the whole object, in bytes
	modified time.Time
	etag     string // without quotes; empty from a listing
}

// String describes the version of the object.
func (o object) String() string { return strconv.FormatInt(o.size, 10) + " " + o.etag }

// do asks the bucket, and once more if it refused the credentials and there are others
// now.
func (c *client) do(ctx context.Context, ask func() error) error {
	if err := c.identify(ctx); err != nil {
		return fmt.Errorf("credentials of the bucket: %w", explain(err))
	}
	err := ask()
	if isRefused(err) && c.renew(ctx) {
		err = ask()
	}
	return explain(err)
}

// get returns the content of an object from an offset: length bytes, or the rest if
// length is -1. The caller must close it.
func (c *client) get(ctx context.Context, name string, offset, length int64) (body io.ReadCloser, o object, err error) {
	var options minio.GetObjectOptions
	switch {
	case length > 0:
		err = options.SetRange(offset, offset+length-1)
	case offset > 0:
		err = options.SetRange(offset, 0)
	}
	if err != nil {
		return nil, object{}, err
	}
	err = c.do(ctx, func() error {
		var info minio.ObjectInfo
		var header http.Header
		body, info, header, err = c.api.GetObject(ctx, c.bucket, c.prefix+name, options)
		if err != nil {
			return err
		}
		o = object{info.Size, info.LastModified, info.ETag}
		if offset > 0 || length > 0 {
			if o.size, err = rangeSize(header.Get("Content-Range"), offset); err != nil {
				_ = body.Close()
			}
		}
		return err
	})
	return body, o, err
}

// rangeSize returns the size of the whole object from the Content-Range of an answer
// that begins at an offset (RFC 9110, section 14.4).
func rangeSize(contentRange string, offset int64) (int64, error) {
	span, total, found := strings.Cut(strings.TrimPrefix(contentRange, "bytes "), "/")
	first, _, _ := strings.Cut(span, "-")
	at, err1 := strconv.ParseInt(first, 10, 64)
	size, err2 := strconv.ParseInt(total, 10, 64)
	if !found || err1 != nil || err2 != nil || at != offset || size <= offset {
		return 0, fmt.Errorf("the bucket was asked for a range from byte %d and answered with %q", offset, contentRange)
	}
	return size, nil
}

func (c *client) stat(ctx context.Context, name string) (o object, err error) {
	err = c.do(ctx, func() error {
		info, err := c.api.StatObject(ctx, c.bucket, c.prefix+name, minio.StatObjectOptions{})
		o = object{info.Size, info.LastModified, info.ETag}
		return err
	})
	return o, err
}

// statChecksum is stat that also returns the SHA-256 checksum of the object, if the object
// store knows it.
func (c *client) statChecksum(ctx context.Context, name string) (o object, checksum string, err error) {
	err = c.do(ctx, func() error {
		info, err := c.api.StatObject(ctx, c.bucket, c.prefix+name, minio.StatObjectOptions{Checksum: true})
		o, checksum = object{info.Size, info.LastModified, info.ETag}, info.ChecksumSHA256
		return err
	})
	return o, checksum, err
}

// remove removes an object. Removing an absent object is not an error.
func (c *client) remove(ctx context.Context, name string) error {
	err := c.do(ctx, func() error {
		return c.api.RemoveObject(ctx, c.bucket, c.prefix+name, minio.RemoveObjectOptions{})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// list calls visit for the objects whose names begin with prefix, in order, until it
// returns an error. There are at most a thousand objects in memory.
func (c *client) list(ctx context.Context, prefix string, visit func(name string, o object) error) error {
	var stopped error // by visit
	visited := 0
	err := c.do(ctx, func() error {
		options := minio.ListObjectsOptions{Prefix: c.prefix + prefix, Recursive: true}
		for info := range c.api.ListObjectsIter(ctx, c.bucket, options) {
			if info.Err != nil && visited > 0 {
				stopped = explain(info.Err) // not from the start again
				return nil
			}
			if info.Err != nil {
				return info.Err
			}
			visited++
			if stopped = visit(strings.TrimPrefix(info.Key, c.prefix), object{size: info.Size, modified: info.LastModified}); stopped != nil {
				return nil
			}
		}
		return ctx.Err()
	})
	return errors.Join(stopped, err)
}

// listUploads calls visit for the uploads in parts of content that are not completed,
// until it returns an error.
func (c *client) listUploads(ctx context.Context, visit func(name, id string, began time.Time) error) error {
	var key, id string
	for {
		var page minio.ListMultipartUploadsResult
		err := c.do(ctx, func() (err error) {
			page, err = c.api.ListMultipartUploads(ctx, c.bucket, c.prefix+"blobs/", key, id, "", listPage)
			return err
		})
		if err != nil {
			return err
		}
		for _, u := range page.Uploads {
			if err := visit(strings.TrimPrefix(u.Key, c.prefix), u.UploadID, u.Initiated); err != nil {
				return err
			}
		}
		if !page.IsTruncated || page.NextKeyMarker == key && page.NextUploadIDMarker == id {
			return nil
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// abort removes an upload in parts that is not completed.
func (c *client) abort(ctx context.Context, name, id string) error {
	err := c.do(ctx, func() error { return c.api.AbortMultipartUpload(ctx, c.bucket, c.prefix+name, id) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
