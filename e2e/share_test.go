//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestTwoProcesses pulls the same images through two proxies with one cache
// directory at once. Each serves what the other has stored.
func TestTwoProcesses(t *testing.T) {
	first := startProxy(t, lab.mainBody())
	second := sharing(t, first)
	c := loggedInto(t, first, second)
	lab.plain.forget()
	images := []image{
		lab.push.index(t, "library/shared", "1", 1<<20, 8<<20),
		lab.push.index(t, "library/shared", "2", 5<<20, 3<<20),
		lab.push.single(t, "library/shared", "3", 10<<20),
	}
	for _, img := range images {
		lab.plain.forget()
		atOnce(t, c, img, first, second, first, second)
		for blob, times := range lab.plain.blobs() {
			if times > 2 {
				t.Errorf("upstream was asked %d times for %s by two processes", times, blob)
			}
		}
	}
	alone := lab.push.single(t, "library/alone", "1", 2<<20)
	cranePull(t, c, first.reference("acme", alone), alone)
	lab.plain.forget()
	for _, img := range append(images, alone) {
		atOnce(t, c, img, first, second)
	}
	lab.plain.wantNoBlobs(t)
	wantSound(t, first.cache)
}

// TestProcessReplacedDuringDownload starts a second process on the cache directory
// and stops the first, as an upgrade does. A download of the first process is
// affected neither by the start of the second nor by the end of the first.
func TestProcessReplacedDuringDownload(t *testing.T) {
	img := lab.push.single(t, "library/handed-over", "1", 32<<20)
	small := lab.push.single(t, "library/handed-over", "2", 1<<20)
	first := startProxy(t, lab.mainBody())
	token := first.login(t, "alice")
	first.get(t, token, manifestPath("acme", shortName(img), "1"))
	lab.plain.rate.Store(slowRate)
	defer lab.plain.rate.Store(0)
	body := first.open(t, token, blobPath("acme", shortName(img), img.layers[0].String()))
	defer body.Close()
	sum := digest.SHA256.Digester()
	copyTo(t, sum.Hash(), body, 1<<20)

	second := sharing(t, first)
	c := loggedInto(t, first, second)
	cranePull(t, c, second.reference("acme", small), small)
	stopped := make(chan struct{})
	go func() {
		first.stop()
		close(stopped)
	}()
	copyTo(t, sum.Hash(), body, -1)
	if sum.Digest() != img.layers[0] {
		t.Errorf("the download came as %s, want %s", sum.Digest(), img.layers[0])
	}
	<-stopped
	lab.plain.rate.Store(0)
	cranePull(t, c, second.reference("acme", img), img)
	lab.plain.forget()
	cranePull(t, c, second.reference("acme", img), img)
	cranePull(t, c, second.reference("acme", small), small)
	lab.plain.wantNoBlobs(t)
	wantSound(t, second.cache)
	wantNothingLeft(t, second.cache)
}

// sharing starts a second proxy on the cache of the first.
func sharing(t *testing.T, first *proxy) *proxy {
	t.Helper()
	p := newProxy(t)
	p.cache = first.cache
	p.launch(t, lab.mainBody())
	return p
}

// loggedInto returns a client that has logged in to several proxies as alice.
func loggedInto(t *testing.T, proxies ...*proxy) *client {
	t.Helper()
	c := newClient(t)
	for _, p := range proxies {
		c.run(t, "crane", "auth", "login", p.host, "-u", "alice", "-p", password)
	}
	return c
}

// atOnce pulls an image through each of the proxies at the same time. A proxy may
// be listed more than once.
func atOnce(t *testing.T, c *client, img image, proxies ...*proxy) {
	t.Helper()
	var group sync.WaitGroup
	folders := make([]string, len(proxies))
	for i, p := range proxies {
		folders[i] = t.TempDir()
		group.Go(func() {
			out, err := runFor(patience, c.env, "crane", "pull", "--platform", platform, "--format", "oci",
				p.reference("acme", img), folders[i])
			if err != nil {
				t.Errorf("crane pull %s: %v\n%s", p.reference("acme", img), err, out)
				folders[i] = ""
			}
		})
	}
	group.Wait()
	for _, folder := range folders {
		if folder != "" {
			inLayout(t, folder, img)
		}
	}
}

// copyTo copies n bytes, or all remaining bytes if n is negative.
func copyTo(t *testing.T, to io.Writer, from io.Reader, n int64) {
	t.Helper()
	var err error
	if n < 0 {
		_, err = io.Copy(to, from)
	} else {
		_, err = io.CopyN(to, from, n)
	}
	must(t, err)
}

// storedFile returns the path at which a cache stores content.
func storedFile(cache string, d digest.Digest) string {
	return filepath.Join(cache, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// wantSound reports an error unless every stored blob, of which there must be at
// least one, has its digest.
func wantSound(t *testing.T, cache string) {
	t.Helper()
	count := 0
	must(t, filepath.WalkDir(filepath.Join(cache, "blobs"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		file, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // dropped meanwhile
		}
		if err != nil {
			return err
		}
		defer file.Close()
		sum, err := digest.FromReader(file)
		if count++; err == nil && sum.Encoded() != entry.Name() {
			t.Errorf("%s is stored with the digest %s", entry.Name(), sum)
		}
		return err
	}))
	if count == 0 {
		t.Error("nothing is stored")
	}
}

// wantNothingLeft reports an error unless the temporary files are removed. There
// must be no download in progress.
func wantNothingLeft(t *testing.T, cache string) {
	t.Helper()
	await(t, func() error {
		left, err := os.ReadDir(filepath.Join(cache, "tmp"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("temporary files are left: %v", left)
		}
		return err
	})
}
