package blobcache

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// testParts is a [Limits.Children]. It reads content that has the line "parts" and then
// one digest on each line, with a star before the digests that may have parts themselves.
func testParts(content io.Reader) (parts []Child) {
	lines := bufio.NewScanner(content)
	if !lines.Scan() || lines.Text() != "parts" {
		return nil
	}
	for lines.Scan() {
		d, compound := strings.CutPrefix(lines.Text(), "*")
		parts = append(parts, Child{digest.Digest(d), compound})
	}
	return parts
}

// imageFixture is a cache of images. The time at which they are used is now, not that of
// the system clock.
type imageFixture struct {
	t     *testing.T
	cache *Cache
	store *store.FileStore
	now   time.Time
	names map[digest.Digest]string          // of all content that the test has stored
	parts map[digest.Digest][]digest.Digest // of images and indexes
}

func newImageFixture(t *testing.T, limits Limits) *imageFixture {
	limits.Children = testParts
	files, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := keptOn(t, files, limits)
	return &imageFixture{t, c, files, time.Now().Add(-1000 * time.Hour), map[digest.Digest]string{}, map[digest.Digest][]digest.Digest{}}
}

// at calls do and changes the time of the uses that do records to g.now.
func (g *imageFixture) at(do func()) {
	g.t.Helper()
	begin := time.Now()
	do()
	u := &g.cache.evictor.uses
	u.mu.Lock()
	defer u.mu.Unlock()
	for it, use := range u.last {
		if !use.at.Before(begin) {
			use.at = g.now
			u.last[it] = use
		}
	}
}

// put stores content under a name.
func (g *imageFixture) put(name string, content []byte) digest.Digest {
	g.t.Helper()
	d := digest.FromBytes(content)
	g.names[d] = name
	if err := g.cache.PutBytes(g.t.Context(), d, content); err != nil {
		g.t.Fatal(err)
	}
	return d
}

// layer pulls a blob of that name and size.
func (g *imageFixture) layer(name string, size int) (d digest.Digest) {
	g.t.Helper()
	content := []byte(name + strings.Repeat(".", size-len(name)))
	d = digest.FromBytes(content)
	g.names[d] = name
	g.at(func() {
		r, _, err := g.cache.Get(g.t.Context(), fill.Request{Digest: d, Size: int64(size), Fetch: fetchOf(content)})
		if err != nil {
			g.t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			g.t.Fatal(err)
		}
		_ = r.Close()
		g.cache.Flush(g.t.Context())
	})
	return d
}

// fetchOf returns a source of content.
func fetchOf(content []byte) fill.Fetch {
	return func(context.Context, int64, int64, string) (*fill.Body, error) {
		return &fill.Body{ReadCloser: io.NopCloser(strings.NewReader(string(content))), Size: int64(len(content))}, nil
	}
}

// naming stores an image with those parts or, if compound is set, an index of images.
func (g *imageFixture) naming(name string, compound bool, parts ...digest.Digest) (d digest.Digest) {
	g.t.Helper()
	text := "parts\n"
	for _, part := range parts {
		if compound {
			text += "*"
		}
		text += string(part) + "\n"
	}
	g.at(func() { d = g.put(name, []byte(text)) })
	g.parts[d] = parts
	return d
}

// head records a use of d without a pull, as a HEAD request does.
func (g *imageFixture) head(d digest.Digest) { g.at(func() { g.cache.Used(d) }) }

// has reports whether d is stored.
func (g *imageFixture) has(d digest.Digest) bool {
	g.t.Helper()
	_, err := g.store.Stat(g.t.Context(), d)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.t.Fatal(err)
	}
	return err == nil
}

// expect checks that the content of these names is stored, and no other content.
func (g *imageFixture) expect(names string) {
	g.t.Helper()
	want := strings.Fields(names)
	got := make(map[string]bool)
	for d, name := range g.names {
		if g.has(d) {
			got[name] = true
		}
	}
	for _, name := range want {
		if !got[name] {
			g.t.Errorf("%s is not stored, want it stored", name)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		g.t.Errorf("got %v stored beside %q, want nothing else", got, names)
	}
}

// squeeze sweeps with a size limit that applies to this sweep only.
func (g *imageFixture) squeeze(size int64) {
	g.t.Helper()
	g.cache.evictor.limits.MaxSize = size
	sweep(g.t, g.cache)
	g.cache.evictor.limits.MaxSize = 0
}

// images returns the stored images and indexes; the value is true if all of their parts
// are stored too.
func (g *imageFixture) images() map[digest.Digest]bool {
	whole := make(map[digest.Digest]bool)
	var check func(d digest.Digest) bool
	check = func(d digest.Digest) bool {
		ok := g.has(d)
		for _, part := range g.parts[d] {
			ok = check(part) && ok
		}
		return ok
	}
	for d := range g.parts {
		if g.has(d) {
			whole[d] = check(d)
		}
	}
	return whole
}
