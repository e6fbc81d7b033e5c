package pull

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestCorruptBlobIsNotStored checks that a blob with a wrong digest ends in a
// broken transfer and is not stored.
func TestCorruptBlobIsNotStored(t *testing.T) {
	up := registrytest.New(t)
	for seed, size := range []int{1, 2, 100_000, 1_000_000} {
		layer := sitetest.Random(byte(seed), size)
		d := up.PutBlob("library/alpine", layer)
		s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
		up.CorruptBlobs(1)
		if seed%2 == 0 {
			s.ExpectBroken(sitetest.BlobPath("acme", "alpine", d))
		} else {
			s.ExpectBroken(sitetest.BlobPath("acme", "alpine", d), sitetest.Header("Range", "bytes=0-"))
		}
		sitetest.Eventually(t, "the fill's end is logged", func() bool { return strings.Contains(s.Logs(), "blob was not cached") })
		for _, name := range s.Stored() {
			if strings.HasPrefix(name, "blobs/") || strings.HasPrefix(name, "tmp/") {
				t.Errorf("got the file %s after a corrupt transfer, want none", name)
			}
		}
		s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer)
		s.AwaitStored(string(d))
		s.Stop()
	}
}

// TestBrokenTransferResumes checks that a transfer from upstream that breaks
// off resumes where it ended.
func TestBrokenTransferResumes(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 300_000)
	d := up.PutBlob("library/alpine", layer)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	up.CutBlobs(100_000, 1)
	s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer)
	if counts := up.Counts(); counts.BlobGet != 2 || counts.BlobBytes != int64(len(layer)) {
		t.Errorf("got requests %+v, want 2 GETs and each byte once", counts)
	}
	s.AwaitStored(string(d))
}

// TestRefusedRanges checks that blobs are pulled from an upstream that refuses
// ranges, also if the transfer breaks off and cannot be resumed with a range.
func TestRefusedRanges(t *testing.T) {
	for _, status := range []int{400, 403, 404, 405, 412, 500, 501, 503} {
		up := registrytest.New(t, registrytest.WithBlobRedirect())
		layer, other := sitetest.Random(1, 300_000), sitetest.Random(2, 1000)
		d, next := up.PutBlob("library/alpine", layer), up.PutBlob("library/alpine", other)
		up.RefuseRanges(status, 0)
		s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
		s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer)
		s.Get(sitetest.BlobPath("acme", "alpine", next), sitetest.As("alice")).Content(t, other)
		if got, want := up.Ranges(), []string{"bytes=0-33554431", "", ""}; !slices.Equal(got, want) {
			t.Errorf("status %d: got the ranges %q, want %q", status, got, want)
		}
		s.Stop()
	}
	up := registrytest.New(t)
	layer := sitetest.Random(1, 300_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	up.RefuseRanges(http.StatusInternalServerError, 0)
	up.CutBlobs(100_000, 2)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	want := []string{"", "", "bytes=100000-", "", ""} // for the config, and for the layer
	if got := up.Ranges(); !slices.Equal(got, want) {
		t.Errorf("a broken transfer: got the ranges %q, want %q", got, want)
	}
	s.AwaitStored(string(image.Layers[0]))
}

// TestLabelledEncoding checks that the Content-Encoding of a blob that is not encoded
// is ignored and not passed on, and that a blob that is encoded is a broken transfer.
func TestLabelledEncoding(t *testing.T) {
	up := registrytest.New(t)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Private("blue", "alice"), sitetest.Hub(up))
	for i, label := range []string{"gzip", "x-gzip", "application/vnd.oci.image.layer.v1.tar+gzip"} {
		layer := sitetest.Random(byte(i), 300_000)
		d := up.PutBlob("library/alpine", layer)
		up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Encoding", label)
			return false
		})
		s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer).Has(t, "Content-Encoding", "")
		s.AwaitStored(string(d))
		s.Head(sitetest.BlobPath("blue", "alpine", d), sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Content-Length", "300000")
	}
	encoded := sitetest.Random(9, 300_000)
	d := digest.FromString("the blob before it is encoded")
	up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Length", "300000")
		_, _ = w.Write(encoded)
		return true
	})
	s.ExpectBroken(sitetest.BlobPath("acme", "alpine", d))
}

// TestBlobRedirectIsHidden checks that a blob is downloaded from where upstream
// redirects to, and that the client does not learn the location.
func TestBlobRedirectIsHidden(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword), registrytest.WithBlobRedirectGetOnly())
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 10_000))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Private("other", "alice"), sitetest.Hub(up, sitetest.HubCredentials(t)))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.Pull(t, s, "other", "alpine", "3.20", sitetest.As("alice"))
	s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice")).Has(t, "Location", "")
}

// TestUnwritableCache checks that pulls succeed without caching while the disk
// cannot be written to.
func TestUnwritableCache(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 100_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	// A file in place of the directory, because root can write to each
	// directory.
	temp := filepath.Join(s.Cache, "tmp")
	if err := os.RemoveAll(temp); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(temp, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Content(t, up.RawManifest("library/alpine", image.Manifest))
		s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice")).Content(t, layer)
		part := s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice"), sitetest.Header("Range", "bytes=50000-50009")).Expect(t, http.StatusPartialContent, "")
		if string(part.Data) != string(layer[50_000:50_010]) {
			t.Errorf("got the range %.40q, want %.40q", part.Data, layer[50_000:50_010])
		}
		s.Get("/v2/acme"+directory.Infix+"alpine/tags/list", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
	up.CorruptBlobs(100)
	s.ExpectBroken(sitetest.BlobPath("acme", "alpine", image.Layers[0]))
	up.Heal()
	if !strings.Contains(s.Logs(), "cache storage error") {
		t.Error("the log lacks the error of the storage")
	}
	if err := os.Remove(temp); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
}

// TestDamagedCacheIsRefetched checks that files that were damaged while Caddy
// was stopped are not served.
func TestDamagedCacheIsRefetched(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 100_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up)}
	s := sitetest.Start(t, lines...)
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	s.Stop()
	for _, name := range s.Stored() {
		if err := os.Truncate(filepath.Join(s.Cache, name), 5); err != nil {
			t.Fatal(err)
		}
	}
	s.Load(lines...)
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Content(t, up.RawManifest("library/alpine", image.Manifest))
	s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice")).Content(t, layer)
}

// TestTruncatedBlobIsRefetched checks that a blob file that was truncated is
// not served, even to a group that learns the size of the blob only by this
// request.
func TestTruncatedBlobIsRefetched(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 100_000)
	d := up.PutBlob("library/alpine", layer)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Private("blue", "alice"), sitetest.Hub(up))
	s.Get(sitetest.BlobPath("red", "alpine", d), sitetest.As("alice")).Content(t, layer)
	for _, group := range []string{"blue", "red"} {
		s.AwaitStored(string(d))
		if err := os.Truncate(s.BlobFile(d), 50_000); err != nil {
			t.Fatal(err)
		}
		s.Get(sitetest.BlobPath(group, "alpine", d), sitetest.As("alice")).Content(t, layer).Has(t, "Cache-Status", "dependency-proxy; fwd=miss")
	}
	if !strings.Contains(s.Logs(), "was damaged and is dropped") {
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
			layer := sitetest.Random(1, 100_000)
			d := up.PutBlob("library/alpine", layer)
			s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Private("blue", "alice"), sitetest.Hub(up))
			s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer)
			s.AwaitStored(string(d))
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
			path := sitetest.BlobPath("blue", "alpine", d)
			if get {
				s.Get(path, sitetest.As("alice")).Expect(t, http.StatusBadGateway, "UNAVAILABLE")
				s.Head(path, sitetest.As("alice")).Expect(t, http.StatusBadGateway, "")
				s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer).Has(t, "Cache-Status", "dependency-proxy; hit")
				return
			}
			s.Get(path, sitetest.As("alice")).Content(t, layer).Has(t, "Cache-Status", "dependency-proxy; fwd=miss")
			sitetest.ExpectRequests(t, up, "a lying HEAD", registrytest.Counts{BlobHead: 1, BlobGet: 1})
			links, err := filepath.Glob(filepath.Join(s.Cache, "links/blue/_/*/library/alpine/_/sha256", d.Encoded()))
			if err != nil || len(links) != 1 {
				t.Fatalf("got the links %v, error %v; want one", links, err)
			}
			if got, err := os.ReadFile(links[0]); err != nil || !strings.HasPrefix(string(got), `{"size":100000,"proof":1,"added":"`) {
				t.Errorf("got the link %s, error %v; want the size, a proof and the time", got, err)
			}
		})
	}
}
