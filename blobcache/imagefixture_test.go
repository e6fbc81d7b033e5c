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

// testParts reads content of a line "parts" and then one digest a line, with a
// star before those that have parts in turn.
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

// imageFixture is a cache of images, with a clock of its own for their use.
type imageFixture struct {
	t     *testing.T
	cache *Cache
	store *store.FileStore
	now   time.Time
	names map[digest.Digest]string
	parts map[digest.Digest][]digest.Digest // of what names something
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

// at makes what is done now happen at the imageFixture's time.
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

func (g *imageFixture) put(name string, content []byte) digest.Digest {
	g.t.Helper()
	d := digest.FromBytes(content)
	g.names[d] = name
	if err := g.cache.PutBytes(g.t.Context(), d, content); err != nil {
		g.t.Fatal(err)
	}
	return d
}

// layer is a pull of a blob.
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

func fetchOf(content []byte) fill.Fetch {
	return func(context.Context, int64, int64, string) (*fill.Body, error) {
		return &fill.Body{ReadCloser: io.NopCloser(strings.NewReader(string(content))), Size: int64(len(content))}, nil
	}
}

// naming puts content that names others: images, if it is an index.
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

func (g *imageFixture) head(d digest.Digest) { g.at(func() { g.cache.Used(d) }) }

func (g *imageFixture) has(d digest.Digest) bool {
	g.t.Helper()
	_, err := g.store.Stat(g.t.Context(), d)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.t.Fatal(err)
	}
	return err == nil
}

// expect checks what is stored by name.
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
			g.t.Errorf("%s is not there", name)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		g.t.Errorf("still there: %v", got)
	}
}

// squeeze sweeps with a limit that did not keep anything from being stored.
func (g *imageFixture) squeeze(size int64) {
	g.t.Helper()
	g.cache.evictor.limits.MaxSize = size
	sweep(g.t, g.cache)
	g.cache.evictor.limits.MaxSize = 0
}

// images are those that are stored, and whether all of their parts are.
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
