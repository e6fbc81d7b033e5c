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

// Filesystem keeps the cache in a directory. Several processes may
// share it. The directory itself may be a symbolic link; those in it are not
// followed. A stored file that something else has written to is read against its
// digest before it is served, if the file system keeps times to the microsecond.
type Filesystem struct {
	// Root is the directory. It is made if it does not exist. The default is
	// the folder dependency_proxy in Caddy's data directory.
	Root string `json:"root,omitempty"`

	// MaxSize bounds the stored images, in bytes: what was least recently
	// pulled goes first, and a blob larger than nine tenths of it is passed
	// on without being stored. The default, 0, sets no bound.
	MaxSize int64 `json:"max_size,omitempty"`

	// UnusedFor is how long what nobody pulls is kept; by default for ever.
	UnusedFor caddy.Duration `json:"unused_for,omitempty"`

	// MaxBlobSize is the size in bytes above which a blob is passed on
	// without being stored; by default none is too large.
	MaxBlobSize int64 `json:"max_blob_size,omitempty"`

	// Reserve is how many bytes of the disk are left free for others: by
	// default a twentieth of the disk and at most 1 GiB; -1 for none.
	Reserve int64 `json:"reserve,omitempty"`

	// FinishAbandoned is true by default: what has been begun to fetch is
	// fetched to its end, and stored, though all who wanted it have left.
	// False ends that after ten seconds, unless it is nearly done.
	FinishAbandoned *bool `json:"finish_abandoned,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Filesystem) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.storage.filesystem",
		New: func() caddy.Module { return new(Filesystem) },
	}
}

// Provision resolves the directory's name.
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
func (f *Filesystem) Open(logger func() *zap.Logger) (store.Blobs, store.Records, error) {
	opened, err := store.OpenFileStore(f.Root)
	if err != nil {
		return nil, nil, err
	}
	opened.Trouble = LogTrouble(logger)
	if !opened.DetectsChanges() {
		logger().Warn("the file system of the cache does not keep times to the microsecond: "+
			"stored files that something else has changed are only found by the scrub", zap.String("root", f.Root))
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

// UnmarshalCaddyfile reads
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
