package pull

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

const imageType = "application/vnd.oci.image.manifest.v1+json"

// putManifestOf stores a manifest that names one layer, with a size.
func putManifestOf(up *registrytest.Registry, tag string, layer digest.Digest, size int) {
	up.PutManifest("library/alpine", imageType, fmt.Appendf(nil,
		`{"schemaVersion":2,"mediaType":%q,"config":{"digest":%q,"size":2},"layers":[{"digest":%q,"size":%d}]}`,
		imageType, up.PutBlob("library/alpine", []byte("{}")), layer, size), tag)
}

// expectFlow opens a blob, checks that the header and the first bytes come while
// upstream holds back the others, and returns the response and these bytes.
func expectFlow(s *sitetest.Site, path string, length int64, changes ...sitetest.RequestOption) (*http.Response, []byte) {
	s.T.Helper()
	response := s.Open(path, append(changes, sitetest.As("alice"))...)
	first := make([]byte, 10_000)
	if _, err := io.ReadFull(response.Body, first); err != nil {
		s.T.Fatal(err)
	}
	if response.StatusCode != http.StatusOK || response.ContentLength != length {
		s.T.Errorf("%s: got %d with a length of %d, want 200 with %d", path, response.StatusCode, response.ContentLength, length)
	}
	return response, first
}

// TestBlobWithoutLength checks that a blob that upstream sends without a length flows
// to the client: with the length that the manifest tells, or chunked if there is no
// manifest.
func TestBlobWithoutLength(t *testing.T) {
	for name, manifest := range map[string]bool{"named by a manifest": true, "not named": false} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, registrytest.WithoutLength())
			layer := sitetest.Random(1, 300_000)
			d := up.PutBlob("library/alpine", layer)
			putManifestOf(up, "3.20", d, len(layer))
			s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "connections 1"))
			length := int64(-1)
			if manifest {
				s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
				length = int64(len(layer))
				s.Head(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Content-Length", "300000")
			}
			release := up.StallBlobs(100_000)
			response, first := expectFlow(s, sitetest.BlobPath("acme", "alpine", d), length)
			ranged := sitetest.Header("Range", "bytes=100-109")
			if manifest {
				part := s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice"), ranged).Expect(t, http.StatusPartialContent, "")
				part.Has(t, "Content-Range", "bytes 100-109/300000")
				if !bytes.Equal(part.Data, layer[100:110]) {
					t.Errorf("got the range %q, want %q", part.Data, layer[100:110])
				}
			} else {
				expectFlow(s, sitetest.BlobPath("acme", "alpine", d), -1, ranged)
			}
			release()
			if rest, err := io.ReadAll(response.Body); err != nil || !bytes.Equal(append(first, rest...), layer) {
				t.Errorf("got %d bytes, error %v, want the layer", len(first)+len(rest), err)
			}
			s.AwaitStored(string(d))
			s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer).Has(t, "Content-Length", "300000")
		})
	}
}

// TestBlobWithoutLengthCorrupt checks that a blob of unknown size with a wrong digest
// is a broken transfer without its last chunk, and is not stored.
func TestBlobWithoutLengthCorrupt(t *testing.T) {
	up := registrytest.New(t, registrytest.WithoutLength())
	layer := sitetest.Random(1, 300_000)
	d := up.PutBlob("library/alpine", layer)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "connections 1"))
	up.CorruptBlobs(1)
	release := up.StallBlobs(100_000)
	response, first := expectFlow(s, sitetest.BlobPath("acme", "alpine", d), -1)
	release()
	rest, err := io.ReadAll(response.Body)
	if err == nil || len(first)+len(rest) >= len(layer) {
		t.Errorf("got %d bytes, error %v, want fewer than %d and an error", len(first)+len(rest), err, len(layer))
	}
	s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer)
}

// getOld sends a request of HTTP/1.0, whose responses end with the connection unless
// they have a length, and returns the response and as much of its body as came.
func getOld(s *sitetest.Site, path string) (*http.Response, []byte) {
	s.T.Helper()
	request, err := http.NewRequestWithContext(s.T.Context(), http.MethodGet, s.URL+path, nil)
	if err != nil {
		s.T.Fatal(err)
	}
	sitetest.As("alice")(request)
	c, err := net.Dial("tcp", s.Host)
	if err != nil {
		s.T.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, "GET %s HTTP/1.0\r\nHost: %s\r\nAuthorization: %s\r\n\r\n", path, s.Host, request.Header.Get("Authorization"))
	response, err := http.ReadResponse(bufio.NewReader(c), request)
	if err != nil {
		s.T.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body) // the length tells whether it is whole
	return response, body
}

// TestBlobWithoutLengthForHTTP10 checks that a client of HTTP/1.0, as some reverse
// proxies are, never takes an incomplete blob for a whole one: it gets the length of
// a blob for which upstream tells none, or an error.
func TestBlobWithoutLengthForHTTP10(t *testing.T) {
	up := registrytest.New(t, registrytest.WithoutLength())
	layer := sitetest.Random(1, 300_000)
	d := up.PutBlob("library/alpine", layer)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "connections 1"))
	path := sitetest.BlobPath("acme", "alpine", d)
	up.CorruptBlobs(1)
	// Upstream pauses for longer than the proxy waits for the end of small blobs.
	time.AfterFunc(300*time.Millisecond, up.StallBlobs(100_000))
	if response, body := getOld(s, path); response.StatusCode != http.StatusBadGateway {
		t.Errorf("corrupt: got %d with %d bytes and a length of %d, want 502", response.StatusCode, len(body), response.ContentLength)
	}
	time.AfterFunc(300*time.Millisecond, up.StallBlobs(100_000))
	response, body := getOld(s, path)
	if response.StatusCode != http.StatusOK || response.ContentLength != int64(len(layer)) || !bytes.Equal(body, layer) {
		t.Errorf("got %d with %d bytes and a length of %d, want the layer", response.StatusCode, len(body), response.ContentLength)
	}
	s.AwaitStored(string(d))
	other := up.PutBlob("library/alpine", sitetest.Random(2, 300_000))
	temp := filepath.Join(s.Cache, "tmp")
	if err := os.RemoveAll(temp); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(temp, nil, 0o600); err != nil { // nothing can be stored
		t.Fatal(err)
	}
	if response, body := getOld(s, sitetest.BlobPath("acme", "alpine", other)); response.StatusCode != http.StatusBadGateway {
		t.Errorf("not stored: got %d with %d bytes and a length of %d, want 502", response.StatusCode, len(body), response.ContentLength)
	}
}

// TestBlobOfAnotherSizeThanItsManifestTells checks that a manifest with a wrong size
// breaks off a transfer for which upstream tells no size, and no other, and that the
// blob is stored all the same.
func TestBlobOfAnotherSizeThanItsManifestTells(t *testing.T) {
	for _, told := range []int{200_000, 400_000} {
		up := registrytest.New(t, registrytest.WithoutLength())
		layer := sitetest.Random(1, 300_000)
		d := up.PutBlob("library/alpine", layer)
		putManifestOf(up, "3.20", d, told)
		s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
		s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
		release := up.StallBlobs(100_000)
		response, first := expectFlow(s, sitetest.BlobPath("acme", "alpine", d), int64(told))
		release()
		rest, err := io.ReadAll(response.Body)
		if err == nil || len(first)+len(rest) >= told {
			t.Errorf("the manifest tells %d: got %d bytes, error %v, want fewer and an error", told, len(first)+len(rest), err)
		}
		s.AwaitStored(string(d))
		s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer).Has(t, "Cache-Status", "dependency-proxy; hit")
		s.Stop()
	}
	up := registrytest.New(t)
	layer := sitetest.Random(1, 300_000)
	d := up.PutBlob("library/alpine", layer)
	putManifestOf(up, "3.20", d, 200_000)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer).Has(t, "Content-Length", "300000")
}

// TestSizeOfAnotherGroup checks that the size that a manifest of one repository tells is
// that of no other group or repository, also while they share a download, whoever of
// them has started it.
func TestSizeOfAnotherGroup(t *testing.T) {
	for _, first := range []string{"red", "blue"} {
		t.Run(first, func(t *testing.T) {
			up := registrytest.New(t, registrytest.WithoutLength())
			layer := sitetest.Random(1, 300_000)
			d := up.PutBlob("library/alpine", layer)
			up.PutBlob("library/busybox", layer)
			putManifestOf(up, "wrong", d, 200_000)
			s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Private("blue", "alice"), sitetest.Hub(up, "connections 1"))
			s.Get(sitetest.ManifestPath("red", "alpine", "wrong"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
			lengths := map[string]int64{"red": 200_000, "blue": -1}
			release := up.StallBlobs(100_000)
			paths := []string{sitetest.BlobPath(first, "alpine", d)}
			for group := range lengths {
				paths = append(paths, sitetest.BlobPath(group, "alpine", d))
			}
			for _, path := range append(paths, sitetest.BlobPath("red", "busybox", d)) {
				length, whole := int64(-1), true
				if path == sitetest.BlobPath("red", "alpine", d) {
					length, whole = lengths["red"], false
				}
				response, start := expectFlow(s, path, length)
				defer func() {
					rest, err := io.ReadAll(response.Body)
					if whole != (err == nil && bytes.Equal(append(start, rest...), layer)) || !whole && err == nil {
						t.Errorf("%s after %s: got %d bytes, error %v, want the layer: %t", path, first, len(start)+len(rest), err, whole)
					}
				}()
			}
			release()
		})
	}
}

// TestBlobWithoutFirstByte checks that a blob of which upstream sends the header and no
// byte, or closes the connection then each time that it is asked, is an error response, and
// not a connection that is closed.
func TestBlobWithoutFirstByte(t *testing.T) {
	unsized := []registrytest.Option{registrytest.WithoutLength()}
	rows := []struct {
		name    string
		options []registrytest.Option
		lines   []string
		silent  bool
	}{
		{"silent", nil, []string{"downloads {\nstall_timeout 1s\n}"}, true},
		{"unsized", unsized, []string{"downloads {\nstall_timeout 1s\n}"}, true},
		{"broken", nil, nil, false},
	}
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice")}
	var ups []*registrytest.Registry
	for _, row := range rows {
		up := registrytest.New(t, row.options...)
		ups, lines = append(ups, up), append(lines, sitetest.UpstreamAt(row.name, up.URL(), row.lines...))
	}
	s := sitetest.Start(t, lines...)
	sitetest.Concurrently(len(rows), func(i int) {
		t.Run(rows[i].name, func(t *testing.T) {
			up, image, layer := ups[i], rows[i].name+"/library/alpine", sitetest.Random(byte(i), 300_000)
			d := up.PutBlob("library/alpine", layer)
			if path := sitetest.BlobPath("acme", image, d); rows[i].silent {
				putManifestOf(up, "3.20", d, len(layer))
				s.Get(sitetest.ManifestPath("acme", image, "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
				up.StallBlobs(0)
				expectSilence(t, s, path)
			} else {
				up.CutBlobs(0, 100)
				s.Get(path, sitetest.As("alice")).Expect(t, http.StatusBadGateway, "UNAVAILABLE").Has(t, "Etag", "")
			}
			up.Heal()
			s.Get(sitetest.BlobPath("acme", image, d), sitetest.As("alice")).Content(t, layer)
		})
	})
}

// expectSilence checks the responses to clients that ask for a blob, and for ranges of it,
// while upstream sends none of it.
func expectSilence(t *testing.T, s *sitetest.Site, path string) {
	t.Helper()
	sitetest.Concurrently(3, func(i int) {
		var ranged []sitetest.RequestOption
		if i > 0 {
			ranged = append(ranged, sitetest.Header("Range", []string{"", "bytes=0-", "bytes=10-19,30-39"}[i]))
		}
		a := s.Get(path, append(ranged, sitetest.As("alice"))...).Expect(t, http.StatusGatewayTimeout, "UNAVAILABLE")
		a.Has(t, "Content-Type", "application/json").Has(t, "Docker-Content-Digest", "").Has(t, "Etag", "").
			Has(t, "Content-Range", "").Has(t, "Accept-Ranges", "").Has(t, "Cache-Control", "no-transform")
	})
}
