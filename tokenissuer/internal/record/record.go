// Package record reads and writes the small files that signing keys and access
// tokens are stored in.
//
// All nodes of a cluster share the [Storage] that holds the files. A file is
// named after its content, written once and never overwritten, so the nodes
// need no locks. [Folder] accesses the files of one kind. [Do] shares the work
// of callers that ask for the same thing at the same time, and [Detach] bounds
// work that several callers wait for. [IsText] is the rule for names in keys,
// tokens and access tokens.
package record

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"time"
	"unicode"
	"unicode/utf8"
)

// Timeout limits one listing of a folder with the reading of its new files, and
// one change of a folder.
const Timeout = 5 * time.Second

// Storage is a subset of certmagic.Storage, so any Caddy storage implements it.
// Keys are slash-separated paths. Load and List return an error that is
// fs.ErrNotExist for a key or path that does not exist. Methods may be called
// concurrently. They should return when their context ends; it always has a
// deadline.
type Storage interface {
	Store(ctx context.Context, key string, value []byte) error
	Load(ctx context.Context, key string) ([]byte, error)
	List(ctx context.Context, path string, recursive bool) ([]string, error)
	Delete(ctx context.Context, key string) error
}

// Folder is a path of a storage that contains files of one kind and nothing
// else.
type Folder struct {
	storage Storage
	path    string
}

// NewFolder returns the folder at path.
func NewFolder(storage Storage, at string) Folder {
	return Folder{storage: storage, path: path.Clean(at)}
}

// Store writes the file with the given name.
func (f Folder) Store(ctx context.Context, name string, content []byte) error {
	return f.storage.Store(ctx, f.path+"/"+name, content)
}

// Load reads the file with the given name.
func (f Folder) Load(ctx context.Context, name string) ([]byte, error) {
	return f.storage.Load(ctx, f.path+"/"+name)
}

// Delete deletes the file with the given name.
func (f Folder) Delete(ctx context.Context, name string) error {
	return f.storage.Delete(ctx, f.path+"/"+name)
}

// Names returns the names of all files. A folder that does not exist has none.
func (f Folder) Names(ctx context.Context) (map[string]bool, error) {
	keys, err := f.storage.List(ctx, f.path, false)
	if errors.Is(err, fs.ErrNotExist) {
		// Either the folder does not exist yet, or one of its files, such as a
		// temporary one, was removed while it was being listed. certmagic's
		// FileStorage returns the same error for both, so list it again.
		keys, err = f.storage.List(ctx, f.path, false)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := make(map[string]bool, len(keys))
	for _, key := range keys {
		names[path.Base(key)] = true
	}
	return names, nil
}

// IsText reports whether s is valid UTF-8 without control characters and has at
// most limit bytes.
func IsText(s string, limit int) bool {
	if len(s) > limit || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}

// Detach returns a context that ends after [Timeout] and not with ctx. It is
// for work that must be completed, or that others wait for, after the client
// that started it has left.
func Detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), Timeout)
}
