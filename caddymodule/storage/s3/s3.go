// Package s3 has the module http.dependency_proxy.storage.s3, which keeps the cache on
// the local disk and a copy of it in a bucket of an S3-compatible object store. Several
// nodes can share the bucket. Package blobcache/store/bucket does the work; this one has the
// configuration, the credentials, and the bucket as a source of downloads.
package s3

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store/bucket"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
)

func init() { caddy.RegisterModule(new(S3)) }

// S3 keeps the cache in a local directory, from which it is served, and uploads it to a
// bucket in the background. Content that is not in the directory is read from the
// bucket before an upstream is asked. If the bucket fails, pulls go on without it.
type S3 struct {
	// Bucket is the name of the bucket, which must exist. It can be a placeholder.
	Bucket string `json:"bucket,omitempty"`

	// Endpoint is the URL of the object store, without the bucket. The default is
	// that of Amazon S3 in the region. It can be a placeholder.
	Endpoint string `json:"endpoint,omitempty"`

	// Region is the region of the bucket. The default is us-east-1 if there is an
	// endpoint; otherwise the region is required. It can be a placeholder.
	Region string `json:"region,omitempty"`

	// Prefix begins the names of all objects. A slash at its end is optional. Caches
	// that share a bucket and not their content need different ones. The default is
	// dependency_proxy. It can be a placeholder.
	Prefix string `json:"prefix,omitempty"`

	// AccessKey is the id of an access key, and SecretKey a placeholder for its
	// secret, such as {file./run/secrets/s3}. Both are read again when the object store
	// refuses them. By default the credentials come from the environment
	// (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), a web identity
	// (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN) or the role of the container or
	// machine.
	AccessKey string `json:"access_key,omitempty"`
	SecretKey string `json:"secret_key,omitempty"`

	// PathStyle puts the name of the bucket into the path of URLs, as many object
	// stores on one's own machines require. By default it is a part of the host.
	PathStyle bool `json:"path_style,omitempty"`

	// Local is the directory from which content is served, with its limits.
	Local *storage.Filesystem `json:"local,omitempty"`

	// MaxSize limits the size of the blobs in the bucket, in bytes. The least recently
	// pulled blobs are removed first, at most a day late. The default, 0, means no
	// limit.
	MaxSize int64 `json:"max_size,omitempty"`

	// UnusedFor is the time after the last pull through any node at which a blob is
	// removed from the bucket. The default, 0, means never.
	UnusedFor caddy.Duration `json:"unused_for,omitempty"`

	// Redirect is the lifetime of signed URLs of the bucket, to which pulls of cached
	// blobs of more than 64 MiB are redirected: from a second to seven days. The proxy
	// does not verify what the bucket sends. The default, 0, means that no pull is
	// redirected.
	Redirect caddy.Duration `json:"redirect,omitempty"`

	endpoint *url.URL
	keysOf   string
	keys     storage.Keys
}

// CaddyModule returns the Caddy module information.
func (*S3) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.storage.s3",
		New: func() caddy.Module { return new(S3) },
	}
}

// Provision implements [caddy.Provisioner].
func (s *S3) Provision(ctx caddy.Context) error {
	for what, value := range map[string]*string{"bucket": &s.Bucket, "endpoint": &s.Endpoint, "region": &s.Region, "prefix": &s.Prefix} {
		replaced, err := caddy.NewReplacer().ReplaceOrErr(*value, true, true)
		if err != nil {
			return fmt.Errorf("storage s3: %s: %w", what, err)
		}
		*value = replaced
	}
	if err := s.complete(); err != nil {
		return err
	}
	if s.Local == nil {
		s.Local = new(storage.Filesystem)
	}
	return s.Local.Provision(ctx)
}

// UseKeys implements [storage.Keyed].
func (s *S3) UseKeys(of string, keys storage.Keys) { s.keysOf, s.keys = of, keys }

// Open implements [storage.Storage].
func (s *S3) Open(logger func() *zap.Logger, trouble storage.Trouble) (store.Blobs, store.Records, error) {
	if s.keys == nil {
		return nil, nil, errors.New("storage s3: there are no keys that authenticate records")
	}
	if s.endpoint.Scheme == "http" {
		logger().Warn("the bucket is asked without TLS; others on the network can read what is stored", zap.String("endpoint", s.Endpoint))
	}
	local, _, err := s.Local.Open(logger, trouble)
	if err != nil {
		return nil, nil, err
	}
	opened, err := bucket.Open(bucket.Config{
		Local:        local.(*store.FileStore),
		Endpoint:     s.endpoint.Host,
		Plain:        s.endpoint.Scheme == "http",
		Bucket:       s.Bucket,
		Prefix:       s.Prefix,
		Region:       s.Region,
		PathStyle:    s.PathStyle,
		Credentials:  s.credentials(),
		Keys:         bucket.Keys(s.keys),
		MaxSize:      s.MaxSize,
		UnusedFor:    time.Duration(s.UnusedFor),
		StorageError: trouble,
		Requested:    metrics.CountBucketRequest,
		Transferred:  metrics.CountBucketBytes,
	})
	if err != nil {
		return nil, nil, err
	}
	if s.Redirect > 0 {
		return &redirecting{newRemote(opened), time.Duration(s.Redirect)}, opened, nil
	}
	return newRemote(opened), opened, nil
}

// remote is a store whose copy in a bucket is known to the rest of the module.
type remote struct {
	*bucket.Store
	replica *replica
}

func newRemote(opened *bucket.Store) *remote { return &remote{opened, &replica{opened}} }

// Replica implements [storage.Remote].
func (r *remote) Replica() fill.Replica { return r.replica }

// redirecting is a remote to which clients are redirected.
type redirecting struct {
	*remote
	lifetime time.Duration // of signed URLs
}

// SignedURL returns a URL of the bucket; see [bucket.Store.SignedURL].
func (r *redirecting) SignedURL(ctx context.Context, d digest.Digest, size int64) (*url.URL, error) {
	return r.Store.SignedURL(ctx, d, size, r.lifetime)
}

// RemoteStatus implements [storage.Remote].
func (r *remote) RemoteStatus() storage.RemoteStatus {
	s := r.Status()
	status := storage.RemoteStatus{
		Name: s.Bucket, Blobs: s.Blobs, Records: s.Records, More: s.Overflow, ReadsFail: s.ReadsFailed, WritesFail: s.WritesFailed,
		Oldest: s.Oldest, FailedBlobs: s.FailedBlobs, FailedRecords: s.FailedRecords,
	}
	if s.ObjectError != nil {
		status.ObjectError = s.ObjectError.Error()
	}
	if s.ReadError != nil {
		status.ReadError = s.ReadError.Error()
	}
	if s.WriteError != nil {
		status.WriteError = s.WriteError.Error()
	}
	return status
}

// Limits implements [storage.Storage]. They are those of the local directory.
func (s *S3) Limits() blobcache.Limits { return s.Local.Limits() }

// String implements [storage.Storage].
func (s *S3) String() string {
	return fmt.Sprintf("s3 %s/%s/%s with %s", s.Endpoint, s.Bucket, s.Prefix, s.Local)
}

// Identity implements [storage.Storage].
func (s *S3) Identity() string {
	return fmt.Sprintf("s3 %q %q %q %q %q %q %v %d %v %v %s, keys of %s", s.Endpoint, s.Bucket, s.Prefix, s.Region, s.AccessKey, s.SecretKey,
		s.PathStyle, s.MaxSize, s.UnusedFor, s.Redirect, s.Local.Identity(), s.keysOf)
}

// Interface guards
var (
	_ caddy.Provisioner = (*S3)(nil)
	_ storage.Storage   = (*S3)(nil)
	_ storage.Keyed     = (*S3)(nil)
	_ storage.Remote    = (*remote)(nil)
	_ storage.Keeper    = (*remote)(nil)
)
