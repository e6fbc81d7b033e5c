package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// breaks checks that a transfer visibly ends before its end, or at once. A
// connection of its own keeps the client from trying again by itself.
func (s *site) breaks(path string, changes ...with) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, change := range append(changes, as("alice")) {
		change(request)
	}
	request.Close = true
	client.CloseIdleConnections()
	response, err := client.Do(request)
	if errors.Is(err, io.EOF) {
		return
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if response.StatusCode == http.StatusBadGateway { // it was found out before there was a header
		s.finish(response).expect(s.t, http.StatusBadGateway, "UNAVAILABLE")
		return
	}
	if a := s.finish(response); !errors.Is(a.err, io.ErrUnexpectedEOF) || int64(len(a.body)) >= response.ContentLength {
		s.t.Errorf("%s: %d, %d of %d bytes, %v", path, a.StatusCode, len(a.body), response.ContentLength, a.err)
	}
}

// TestCorruptBlob: bytes that are not what was asked for end in a broken
// transfer and are not kept.
func TestCorruptBlob(t *testing.T) {
	up := registrytest.New(t)
	for seed, size := range []int{1, 2, 100_000, 1_000_000} {
		layer := random(byte(seed), size)
		d := up.PutBlob("library/alpine", layer)
		s := start(t, users("alice"), private("acme", "alice"), hub(up))
		up.CorruptBlobs(1)
		if seed%2 == 0 {
			s.breaks(blobPath("acme", "alpine", d))
		} else {
			s.breaks(blobPath("acme", "alpine", d), header("Range", "bytes=0-"))
		}
		eventually(t, "the fill's end is logged", func() bool { return strings.Contains(s.logs(), "blob was not cached") })
		for _, name := range s.stored() {
			if strings.HasPrefix(name, "blobs/") || strings.HasPrefix(name, "tmp/") {
				t.Errorf("%s is left", name)
			}
		}
		s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer)
		s.awaitStored(string(d))
		s.stop()
	}
}

// TestCutBlob: a transfer that breaks off goes on where it was.
func TestCutBlob(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 300_000)
	d := up.PutBlob("library/alpine", layer)
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	up.CutBlobs(100_000, 1)
	s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer)
	if counts := up.Counts(); counts.BlobGet != 2 || counts.BlobBytes != int64(len(layer)) {
		t.Errorf("upstream was asked %+v", counts)
	}
	s.awaitStored(string(d))
}

// TestRedirectedBlob: blobs that upstream keeps elsewhere come from there, and
// where that is stays between us and upstream.
func TestRedirectedBlob(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", upstreamPassword), registrytest.WithBlobRedirectGetOnly())
	image := up.PutImage("library/alpine", "3.20", random(1, 10_000))
	s := start(t, users("alice"), private("acme", "alice"), private("other", "alice"), hub(up, hubLogin(t)))
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	pull(t, s, "other", "alpine", "3.20", as("alice"))
	s.get(blobPath("acme", "alpine", image.Layers[0]), as("alice")).has(t, "Location", "")
}

// TestCacheTrouble: without a disk to write to it is still a proxy.
func TestCacheTrouble(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 100_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	// As root there is no directory that cannot be written to.
	temp := filepath.Join(s.cache, "tmp")
	if err := os.RemoveAll(temp); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(temp, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).content(t, up.RawManifest("library/alpine", image.Manifest))
		s.get(blobPath("acme", "alpine", image.Layers[0]), as("alice")).content(t, layer)
		part := s.get(blobPath("acme", "alpine", image.Layers[0]), as("alice"), header("Range", "bytes=50000-50009")).expect(t, http.StatusPartialContent, "")
		if string(part.body) != string(layer[50_000:50_010]) {
			t.Error("a wrong part")
		}
		s.get("/v2/acme"+infix+"alpine/tags/list", as("alice")).expect(t, http.StatusOK, "")
	}
	up.CorruptBlobs(100)
	s.breaks(blobPath("acme", "alpine", image.Layers[0]))
	up.Heal()
	if !strings.Contains(s.logs(), "cache storage is in trouble") {
		t.Error("the log does not tell")
	}
	if err := os.Remove(temp); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
}

// TestDamagedCache: what has become of the files while Caddy was away is not
// served.
func TestDamagedCache(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 100_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	lines := []string{users("alice"), private("acme", "alice"), hub(up)}
	s := start(t, lines...)
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	s.stop()
	for _, name := range s.stored() {
		if err := os.Truncate(filepath.Join(s.cache, name), 5); err != nil {
			t.Fatal(err)
		}
	}
	s.load(lines...)
	s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).content(t, up.RawManifest("library/alpine", image.Manifest))
	s.get(blobPath("acme", "alpine", image.Layers[0]), as("alice")).content(t, layer)
}
