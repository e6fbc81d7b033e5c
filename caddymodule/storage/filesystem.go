package storage

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

func init() { caddy.RegisterModule(new(Filesystem)) }

// Filesystem keeps the cache in a directory, which several processes can share. The
// directory can be a symbolic link, but links in it are not followed. If another
// program has written to a stored file, the digest of the file is verified before it
// is served. This requires a file system that keeps times to the microsecond.
type Filesystem struct {
	// Root is the path of the directory, which is created if it does not exist.
	// The default is the folder dependency_proxy in Caddy's data directory.
	Root string `json:"root,omitempty"`

	// MaxSize limits the size of the stored blobs, in bytes. The least recently
	// pulled blobs are evicted first. A blob of more than nine tenths of it is
	// passed to the client without being stored. The default, 0, means no limit.
	MaxSize int64 `json:"max_size,omitempty"`

	// UnusedFor is the time after its last pull at which a blob is evicted. The
	// default, 0, means never.
	UnusedFor caddy.Duration `json:"unused_for,omitempty"`

	// MaxBlobSize is the size in bytes above which a blob is passed to the
	// client without being stored. The default, 0, means no limit.
	MaxBlobSize int64 `json:"max_blob_size,omitempty"`

	// Reserve is the free space in bytes that the cache leaves on the disk. The
	// default is a twentieth of the disk, at most 1 GiB; -1 means none.
	Reserve int64 `json:"reserve,omitempty"`

	// FinishAbandoned is true by default: a download is finished and stored
	// after all of its clients have left. If it is false, such a download ends
	// after ten seconds, unless it is nearly finished.
	FinishAbandoned *bool `json:"finish_abandoned,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Filesystem) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.storage.filesystem",
		New: func() caddy.Module { return new(Filesystem) },
	}
}

// Provision implements [caddy.Provisioner]. It makes Root an absolute path.
func (f *Filesystem) Provision(caddy.Context) error {
	root, err := caddy.NewReplacer().ReplaceOrErr(f.Root, true, true)
	if err != nil {
		return fmt.Errorf("storage directory: %w", err)
	}
	if root == "" {
		root = filepath.Join(caddy.AppDataDir(), "dependency_proxy")
	}
	f.Root, err = filepath.Abs(root)
	return err
}

// Open implements [Storage].
func (f *Filesystem) Open(logger func() *zap.Logger, trouble Trouble) (store.Blobs, store.Records, error) {
	opened, err := store.OpenFileStore(f.Root)
	if err != nil {
		return nil, nil, err
	}
	opened.StorageError = trouble
	if !opened.DetectsChanges() {
		logger().Warn("the file system of the cache does not keep times to the microsecond: "+
			"only the scrub finds stored files that another program has changed", zap.String("root", f.Root))
	}
	return opened, opened, nil
}

// Limits implements [Storage].
func (f *Filesystem) Limits() blobcache.Limits {
	return blobcache.Limits{
		MaxSize:     f.MaxSize,
		UnusedFor:   time.Duration(f.UnusedFor),
		MaxBlobSize: f.MaxBlobSize,
		Reserve:     f.Reserve,

		StopAbandoned: f.FinishAbandoned != nil && !*f.FinishAbandoned,
	}
}

// String implements [Storage].
func (f *Filesystem) String() string { return "filesystem " + f.Root }

// Identity implements [Storage].
func (f *Filesystem) Identity() string {
	return fmt.Sprintf("filesystem %q %+v", f.Root, f.Limits())
}

// UnmarshalCaddyfile parses
//
//	filesystem [<directory>] {
//		max_size         <size>
//		unused_for       <duration>
//		max_blob_size    <size>
//		reserve          <size>|off
//		finish_abandoned on|off
//	}
func (f *Filesystem) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		f.Root = d.Val()
	}
	if err := parse.End(d); err != nil {
		return err
	}
	return parse.Lines(d, "storage filesystem", map[string]func(*caddyfile.Dispenser) error{
		"max_size":      func(d *caddyfile.Dispenser) error { return parse.Size(d, &f.MaxSize) },
		"unused_for":    func(d *caddyfile.Dispenser) error { return parse.Duration(d, &f.UnusedFor) },
		"max_blob_size": func(d *caddyfile.Dispenser) error { return parse.Size(d, &f.MaxBlobSize) },
		"reserve":       func(d *caddyfile.Dispenser) error { return parse.SizeOrOff(d, &f.Reserve) },
		"finish_abandoned": func(d *caddyfile.Dispenser) error {
			on, err := parse.OnOff(d)
			f.FinishAbandoned = &on
			return err
		},
	})
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Filesystem)(nil)
	_ caddyfile.Unmarshaler = (*Filesystem)(nil)
	_ Storage               = (*Filesystem)(nil)
)
