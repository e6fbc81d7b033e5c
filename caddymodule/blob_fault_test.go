package caddymodule

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestCorruptBlobIsNotStored checks that a blob with a wrong digest ends in a
// broken transfer and is not stored.
func TestCorruptBlobIsNotStored(t *testing.T) {
	up := registrytest.New(t)
	for seed, size := range []int{1, 2, 100_000, 1_000_000} {
		layer := random(byte(seed), size)
		d := up.PutBlob("library/alpine", layer)
		s := start(t, users("alice"), private("acme", "alice"), hub(up))
		up.CorruptBlobs(1)
		if seed%2 == 0 {
			s.expectBroken(blobPath("acme", "alpine", d))
		} else {
			s.expectBroken(blobPath("acme", "alpine", d), header("Range", "bytes=0-"))
		}
		eventually(t, "the fill's end is logged", func() bool { return strings.Contains(s.logs(), "blob was not cached") })
		for _, name := range s.stored() {
			if strings.HasPrefix(name, "blobs/") || strings.HasPrefix(name, "tmp/") {
				t.Errorf("got the file %s after a corrupt transfer, want none", name)
			}
		}
		s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer)
		s.awaitStored(string(d))
		s.stop()
	}
}

// TestBrokenTransferResumes checks that a transfer from upstream that breaks
// off resumes where it ended.
func TestBrokenTransferResumes(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 300_000)
	d := up.PutBlob("library/alpine", layer)
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	up.CutBlobs(100_000, 1)
	s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer)
	if counts := up.Counts(); counts.BlobGet != 2 || counts.BlobBytes != int64(len(layer)) {
		t.Errorf("got requests %+v, want 2 GETs and each byte once", counts)
	}
	s.awaitStored(string(d))
}

// TestRefusedRanges checks that blobs are pulled from an upstream that refuses
// ranges, also if the transfer breaks off and cannot be resumed with a range.
func TestRefusedRanges(t *testing.T) {
	for _, status := range []int{400, 403, 404, 405, 412, 500, 501, 503} {
		up := registrytest.New(t, registrytest.WithBlobRedirect())
		layer, other := random(1, 300_000), random(2, 1000)
		d, next := up.PutBlob("library/alpine", layer), up.PutBlob("library/alpine", other)
		up.RefuseRanges(status, 0)
		s := start(t, users("alice"), private("acme", "alice"), hub(up))
		s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer)
		s.get(blobPath("acme", "alpine", next), as("alice")).content(t, other)
		if got, want := up.Ranges(), []string{"bytes=0-33554431", "", ""}; !slices.Equal(got, want) {
			t.Errorf("status %d: got the ranges %q, want %q", status, got, want)
		}
		s.stop()
	}
	up := registrytest.New(t)
	layer := random(1, 300_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	up.RefuseRanges(http.StatusInternalServerError, 0)
	up.CutBlobs(100_000, 2)
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	want := []string{"", "", "bytes=100000-", "", ""} // for the config, and for the layer
	if got := up.Ranges(); !slices.Equal(got, want) {
		t.Errorf("a broken transfer: got the ranges %q, want %q", got, want)
	}
	s.awaitStored(string(image.Layers[0]))
}

// TestLabelledEncoding checks that the Content-Encoding of a blob that is not encoded
// is ignored and not passed on, and that a blob that is encoded is a broken transfer.
func TestLabelledEncoding(t *testing.T) {
	up := registrytest.New(t)
	s := start(t, users("alice"), private("acme", "alice"), private("blue", "alice"), hub(up))
	for i, label := range []string{"gzip", "x-gzip", "application/vnd.oci.image.layer.v1.tar+gzip"} {
		layer := random(byte(i), 300_000)
		d := up.PutBlob("library/alpine", layer)
		up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Encoding", label)
			return false
		})
		s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer).has(t, "Content-Encoding", "")
		s.awaitStored(string(d))
		s.head(blobPath("blue", "alpine", d), as("alice")).expect(t, http.StatusOK, "").has(t, "Content-Length", "300000")
	}
	encoded := random(9, 300_000)
	d := digest.FromString("the blob before it is encoded")
	up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Length", "300000")
		_, _ = w.Write(encoded)
		return true
	})
	s.expectBroken(blobPath("acme", "alpine", d))
}

// TestBlobRedirectIsHidden checks that a blob is downloaded from where upstream
// redirects to, and that the client does not learn the location.
func TestBlobRedirectIsHidden(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", upstreamPassword), registrytest.WithBlobRedirectGetOnly())
	image := up.PutImage("library/alpine", "3.20", random(1, 10_000))
	s := start(t, users("alice"), private("acme", "alice"), private("other", "alice"), hub(up, hubCredentials(t)))
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	pull(t, s, "other", "alpine", "3.20", as("alice"))
	s.get(blobPath("acme", "alpine", image.Layers[0]), as("alice")).has(t, "Location", "")
}

// TestUnwritableCache checks that pulls succeed without caching while the disk
// cannot be written to.
func TestUnwritableCache(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 100_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	// A file in place of the directory, because root can write to each
	// directory.
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
			t.Errorf("got the range %.40q, want %.40q", part.body, layer[50_000:50_010])
		}
		s.get("/v2/acme"+infix+"alpine/tags/list", as("alice")).expect(t, http.StatusOK, "")
	}
	up.CorruptBlobs(100)
	s.expectBroken(blobPath("acme", "alpine", image.Layers[0]))
	up.Heal()
	if !strings.Contains(s.logs(), "cache storage error") {
		t.Error("the log lacks the error of the storage")
	}
	if err := os.Remove(temp); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
}

// TestDamagedCacheIsRefetched checks that files that were damaged while Caddy
// was stopped are not served.
func TestDamagedCacheIsRefetched(t *testing.T) {
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

// TestTruncatedBlobIsRefetched checks that a blob file that was truncated is
// not served, even to a group that learns the size of the blob only by this
// request.
func TestTruncatedBlobIsRefetched(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 100_000)
	d := up.PutBlob("library/alpine", layer)
	s := start(t, users("alice"), private("red", "alice"), private("blue", "alice"), hub(up))
	s.get(blobPath("red", "alpine", d), as("alice")).content(t, layer)
	for _, group := range []string{"blue", "red"} {
		s.awaitStored(string(d))
		if err := os.Truncate(s.blobFile(d), 50_000); err != nil {
			t.Fatal(err)
		}
		s.get(blobPath(group, "alpine", d), as("alice")).content(t, layer).has(t, "Cache-Status", "dependency-proxy; fwd=miss")
	}
	if !strings.Contains(s.logs(), "was damaged and is dropped") {
		t.Error("the log lacks the damaged blob")
	}
}

// TestUpstreamClaimsWrongSize checks that a HEAD that contradicts the known
// size of a blob confirms nothing, and that a GET decides: the blob is served
// from the cache if the GET is right, and refused otherwise.
func TestUpstreamClaimsWrongSize(t *testing.T) {
	for name, get := range map[string]bool{"HEAD lies": false, "both lie": true} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t)
			layer := random(1, 100_000)
			d := up.PutBlob("library/alpine", layer)
			s := start(t, users("alice"), private("acme", "alice"), private("blue", "alice"), hub(up))
			s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer)
			s.awaitStored(string(d))
			up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodHead && !get {
					return false
				}
				w.Header().Set("Content-Length", "99999")
				w.WriteHeader(http.StatusOK)
				if r.Method != http.MethodHead {
					_, _ = w.Write(layer[:99_999])
				}
				return true
			})
			up.Reset()
			path := blobPath("blue", "alpine", d)
			if get {
				s.get(path, as("alice")).expect(t, http.StatusBadGateway, "UNAVAILABLE")
				s.head(path, as("alice")).expect(t, http.StatusBadGateway, "")
				s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer).has(t, "Cache-Status", "dependency-proxy; hit")
				return
			}
			s.get(path, as("alice")).content(t, layer).has(t, "Cache-Status", "dependency-proxy; fwd=miss")
			expectRequests(t, up, "a lying HEAD", registrytest.Counts{BlobHead: 1, BlobGet: 1})
			links, err := filepath.Glob(filepath.Join(s.cache, "links/blue/_/*/library/alpine/_/sha256", d.Encoded()))
			if err != nil || len(links) != 1 {
				t.Fatalf("got the links %v, error %v; want one", links, err)
			}
			if got, err := os.ReadFile(links[0]); err != nil || !strings.HasPrefix(string(got), `{"size":100000,"proof":1,"added":"`) {
				t.Errorf("got the link %s, error %v; want the size, a proof and the time", got, err)
			}
		})
	}
}
