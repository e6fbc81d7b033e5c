//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// damages are changes of a stored file that are noticed when it is opened.
var damages = map[string]func(name string) error{
	"cut":     func(name string) error { return os.Truncate(name, 100) },
	"emptied": func(name string) error { return os.Truncate(name, 0) },
	"longer": func(name string) error {
		file, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = file.WriteString("more")
		return errors.Join(err, file.Close())
	},
	"changed": func(name string) error {
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		content[len(content)/2] ^= 4
		return os.WriteFile(name, content, 0o600)
	},
	"a link": func(name string) error {
		elsewhere := filepath.Join(filepath.Dir(name), "..", "..", "..", "moved")
		return errors.Join(os.Rename(name, elsewhere), os.Symlink(elsewhere, name))
	},
	"a pipe":  func(name string) error { return errors.Join(os.Remove(name), syscall.Mkfifo(name, 0o600)) },
	"deleted": os.Remove,
	"a folder": func(name string) error {
		if err := os.Remove(name); err != nil {
			return err
		}
		return os.MkdirAll(filepath.Join(name, "in", "it"), 0o755)
	},
}

// TestDamagedBlob damages a stored layer between two pulls. The second pull
// succeeds, fetches one blob from upstream, and repairs the cache.
func TestDamagedBlob(t *testing.T) {
	p := startProxy(t, lab.mainBody())
	c := loggedIn(t, p)
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			img := lab.push.single(t, "library/damaged", "1", 1<<20, 2<<20)
			cranePull(t, c, p.name("acme", img)+"@"+img.digest.String(), img)
			stored := awaitStored(t, p.cache, img.layers[1])
			must(t, damage(stored))
			lab.plain.forget()
			cranePull(t, c, p.name("acme", img)+"@"+img.digest.String(), img)
			lab.plain.wantOnce(t, []string{img.layers[1].String()})
			lab.plain.forget()
			cranePull(t, c, p.name("acme", img)+"@"+img.digest.String(), img)
			lab.plain.wantNoBlobs(t)
			wantSound(t, p.cache)
		})
	}
}

// TestDamagedManifest damages a stored manifest and pulls through a new process,
// which does not have the manifest in memory.
func TestDamagedManifest(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, lab.mainBody())
			c := loggedIn(t, p)
			img := lab.push.single(t, "library/damaged-manifest", "1", 1<<20)
			cranePull(t, c, p.name("acme", img)+"@"+img.digest.String(), img)
			stored := awaitStored(t, p.cache, img.digest)
			p.stop()
			must(t, damage(stored))
			p.launch(t, lab.mainBody())
			cranePull(t, c, p.name("acme", img)+"@"+img.digest.String(), img)
			awaitStored(t, p.cache, img.digest)
			wantSound(t, p.cache)
		})
	}
}

// TestSilentlyDamagedBlob flips a bit of a stored layer as a failing disk does,
// without a change of size or time. The scrub of a new process drops the layer,
// and the next pull fetches it.
func TestSilentlyDamagedBlob(t *testing.T) {
	p := startProxy(t, lab.mainBody())
	c := loggedIn(t, p)
	img := lab.push.single(t, "library/rotten", "1", 1<<20, 2<<20)
	cranePull(t, c, p.reference("acme", img), img)
	stored := awaitStored(t, p.cache, img.layers[0])
	p.stop()
	before, err := os.Stat(stored)
	must(t, err)
	must(t, damages["changed"](stored))
	must(t, os.Chtimes(stored, before.ModTime(), before.ModTime()))
	p.launch(t, lab.mainBody())
	await(t, func() error {
		if _, err := os.Stat(stored); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.New("the damage is not detected")
	})
	lab.plain.forget()
	cranePull(t, c, p.reference("acme", img), img)
	lab.plain.wantOnce(t, []string{img.layers[0].String()})
	wantSound(t, p.cache)
}

// awaitStored waits until the cache has stored content, which may happen shortly
// after it was served, and returns the file.
func awaitStored(t *testing.T, cache string, d digest.Digest) string {
	t.Helper()
	name := storedFile(cache, d)
	await(t, func() error {
		info, err := os.Stat(name)
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s has the mode %s, want a regular file", name, info.Mode())
		}
		return err
	})
	return name
}
