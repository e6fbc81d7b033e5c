package caddymodule

import (
	"fmt"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
)

func init() { caddy.RegisterModule(new(FilesystemStorage)) }

// Storage is a guest module in the namespace http.dependency_proxy.storage: a
// place for cached content and for the records of what may be served to whom.
type Storage interface {
	// Open is called once for all configurations with the same identity.
	Open() (blobcache.Store, blobcache.Records, error)

	// Identity is equal for two configurations that may share what Open
	// returns: the same place with the same settings.
	Identity() string
}

// FilesystemStorage keeps the cache in a directory. Several processes may
// share it.
type FilesystemStorage struct {
	// Root is the directory. It is made if it does not exist. The default is
	// the folder dependency_proxy in Caddy's data directory.
	Root string `json:"root,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*FilesystemStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.storage.filesystem",
		New: func() caddy.Module { return new(FilesystemStorage) },
	}
}

// Provision resolves the directory's name.
func (f *FilesystemStorage) Provision(caddy.Context) error {
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
func (f *FilesystemStorage) Open() (blobcache.Store, blobcache.Records, error) {
	store, err := blobcache.OpenFileStore(f.Root)
	return store, store, err
}

// Identity implements [Storage].
func (f *FilesystemStorage) Identity() string { return "filesystem " + f.Root }

// UnmarshalCaddyfile reads
//
//	filesystem [<directory>]
func (f *FilesystemStorage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		f.Root = d.Val()
	}
	return endOfLine(d)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*FilesystemStorage)(nil)
	_ caddyfile.Unmarshaler = (*FilesystemStorage)(nil)
	_ Storage               = (*FilesystemStorage)(nil)
)
