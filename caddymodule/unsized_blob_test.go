package caddymodule

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
func (s *site) expectFlow(path string, length int64, changes ...requestOption) (*http.Response, []byte) {
	s.t.Helper()
	response := s.open(path, append(changes, as("alice"))...)
	first := make([]byte, 10_000)
	if _, err := io.ReadFull(response.Body, first); err != nil {
		s.t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK || response.ContentLength != length {
		s.t.Errorf("%s: got %d with a length of %d, want 200 with %d", path, response.StatusCode, response.ContentLength, length)
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
			layer := random(1, 300_000)
			d := up.PutBlob("library/alpine", layer)
			putManifestOf(up, "3.20", d, len(layer))
			s := start(t, users("alice"), private("acme", "alice"), hub(up, "connections 1"))
			length := int64(-1)
			if manifest {
				s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "")
				length = int64(len(layer))
				s.head(blobPath("acme", "alpine", d), as("alice")).expect(t, http.StatusOK, "").has(t, "Content-Length", "300000")
			}
			release := up.StallBlobs(100_000)
			response, first := s.expectFlow(blobPath("acme", "alpine", d), length)
			ranged := header("Range", "bytes=100-109")
			if manifest {
				part := s.get(blobPath("acme", "alpine", d), as("alice"), ranged).expect(t, http.StatusPartialContent, "")
				part.has(t, "Content-Range", "bytes 100-109/300000")
				if !bytes.Equal(part.body, layer[100:110]) {
					t.Errorf("got the range %q, want %q", part.body, layer[100:110])
				}
			} else {
				s.expectFlow(blobPath("acme", "alpine", d), -1, ranged)
			}
			release()
			if rest, err := io.ReadAll(response.Body); err != nil || !bytes.Equal(append(first, rest...), layer) {
				t.Errorf("got %d bytes, error %v, want the layer", len(first)+len(rest), err)
			}
			s.awaitStored(string(d))
			s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer).has(t, "Content-Length", "300000")
		})
	}
}

// TestBlobWithoutLengthCorrupt checks that a blob of unknown size with a wrong digest
// is a broken transfer without its last chunk, and is not stored.
func TestBlobWithoutLengthCorrupt(t *testing.T) {
	up := registrytest.New(t, registrytest.WithoutLength())
	layer := random(1, 300_000)
	d := up.PutBlob("library/alpine", layer)
	s := start(t, users("alice"), private("acme", "alice"), hub(up, "connections 1"))
	up.CorruptBlobs(1)
	release := up.StallBlobs(100_000)
	response, first := s.expectFlow(blobPath("acme", "alpine", d), -1)
	release()
	rest, err := io.ReadAll(response.Body)
	if err == nil || len(first)+len(rest) >= len(layer) {
		t.Errorf("got %d bytes, error %v, want fewer than %d and an error", len(first)+len(rest), err, len(layer))
	}
	s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer)
}

// getOld sends a request of HTTP/1.0, whose responses end with the connection unless
// they have a length, and returns the response and as much of its body as came.
func (s *site) getOld(path string) (*http.Response, []byte) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	as("alice")(request)
	c, err := net.Dial("tcp", s.host)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, "GET %s HTTP/1.0\r\nHost: %s\r\nAuthorization: %s\r\n\r\n", path, s.host, request.Header.Get("Authorization"))
	response, err := http.ReadResponse(bufio.NewReader(c), request)
	if err != nil {
		s.t.Fatal(err)
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
	layer := random(1, 300_000)
	d := up.PutBlob("library/alpine", layer)
	s := start(t, users("alice"), private("acme", "alice"), hub(up, "connections 1"))
	path := blobPath("acme", "alpine", d)
	up.CorruptBlobs(1)
	// Upstream pauses for longer than the proxy waits for the end of small blobs.
	time.AfterFunc(300*time.Millisecond, up.StallBlobs(100_000))
	if response, body := s.getOld(path); response.StatusCode != http.StatusBadGateway {
		t.Errorf("corrupt: got %d with %d bytes and a length of %d, want 502", response.StatusCode, len(body), response.ContentLength)
	}
	time.AfterFunc(300*time.Millisecond, up.StallBlobs(100_000))
	response, body := s.getOld(path)
	if response.StatusCode != http.StatusOK || response.ContentLength != int64(len(layer)) || !bytes.Equal(body, layer) {
		t.Errorf("got %d with %d bytes and a length of %d, want the layer", response.StatusCode, len(body), response.ContentLength)
	}
	s.awaitStored(string(d))
	other := up.PutBlob("library/alpine", random(2, 300_000))
	temp := filepath.Join(s.cache, "tmp")
	if err := os.RemoveAll(temp); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(temp, nil, 0o600); err != nil { // nothing can be stored
		t.Fatal(err)
	}
	if response, body := s.getOld(blobPath("acme", "alpine", other)); response.StatusCode != http.StatusBadGateway {
		t.Errorf("not stored: got %d with %d bytes and a length of %d, want 502", response.StatusCode, len(body), response.ContentLength)
	}
}

// TestBlobOfAnotherSizeThanItsManifestTells checks that a manifest with a wrong size
// breaks off a transfer for which upstream tells no size, and no other, and that the
// blob is stored all the same.
func TestBlobOfAnotherSizeThanItsManifestTells(t *testing.T) {
	for _, told := range []int{200_000, 400_000} {
		up := registrytest.New(t, registrytest.WithoutLength())
		layer := random(1, 300_000)
		d := up.PutBlob("library/alpine", layer)
		putManifestOf(up, "3.20", d, told)
		s := start(t, users("alice"), private("acme", "alice"), hub(up))
		s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "")
		release := up.StallBlobs(100_000)
		response, first := s.expectFlow(blobPath("acme", "alpine", d), int64(told))
		release()
		rest, err := io.ReadAll(response.Body)
		if err == nil || len(first)+len(rest) >= told {
			t.Errorf("the manifest tells %d: got %d bytes, error %v, want fewer and an error", told, len(first)+len(rest), err)
		}
		s.awaitStored(string(d))
		s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer).has(t, "Cache-Status", "dependency-proxy; hit")
		s.stop()
	}
	up := registrytest.New(t)
	layer := random(1, 300_000)
	d := up.PutBlob("library/alpine", layer)
	putManifestOf(up, "3.20", d, 200_000)
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "")
	s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer).has(t, "Content-Length", "300000")
}

// TestSizeOfAnotherGroup checks that the size that a manifest of one repository tells is
// that of no other group or repository, also while they share a download, whoever of
// them has started it.
func TestSizeOfAnotherGroup(t *testing.T) {
	for _, first := range []string{"red", "blue"} {
		t.Run(first, func(t *testing.T) {
			up := registrytest.New(t, registrytest.WithoutLength())
			layer := random(1, 300_000)
			d := up.PutBlob("library/alpine", layer)
			up.PutBlob("library/busybox", layer)
			putManifestOf(up, "wrong", d, 200_000)
			s := start(t, users("alice"), private("red", "alice"), private("blue", "alice"), hub(up, "connections 1"))
			s.get(manifestPath("red", "alpine", "wrong"), as("alice")).expect(t, http.StatusOK, "")
			lengths := map[string]int64{"red": 200_000, "blue": -1}
			release := up.StallBlobs(100_000)
			paths := []string{blobPath(first, "alpine", d)}
			for group := range lengths {
				paths = append(paths, blobPath(group, "alpine", d))
			}
			for _, path := range append(paths, blobPath("red", "busybox", d)) {
				length, whole := int64(-1), true
				if path == blobPath("red", "alpine", d) {
					length, whole = lengths["red"], false
				}
				response, start := s.expectFlow(path, length)
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

// TestBlobOfSilentUpstream checks that a blob of which upstream sends the header and no
// byte is an error response, and not a connection that is closed.
func TestBlobOfSilentUpstream(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{"with a length": nil, "without a length": {registrytest.WithoutLength()}} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, options...)
			layer := random(1, 300_000)
			d := up.PutBlob("library/alpine", layer)
			putManifestOf(up, "3.20", d, len(layer))
			s := start(t, users("alice"), private("acme", "alice"), hub(up, "downloads {\nstall_timeout 1s\n}"))
			s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "")
			up.StallBlobs(0)
			path := blobPath("acme", "alpine", d)
			concurrently(3, func(i int) {
				var ranged []requestOption
				if i > 0 {
					ranged = append(ranged, header("Range", []string{"", "bytes=0-", "bytes=10-19,30-39"}[i]))
				}
				a := s.get(path, append(ranged, as("alice"))...).expect(t, http.StatusGatewayTimeout, "UNAVAILABLE")
				a.has(t, "Content-Type", "application/json").has(t, "Docker-Content-Digest", "").has(t, "Etag", "").
					has(t, "Content-Range", "").has(t, "Accept-Ranges", "").has(t, "Cache-Control", "no-transform")
			})
			up.Heal()
			s.get(path, as("alice")).content(t, layer)
		})
	}
}

// TestBlobThatBreaksOffBeforeItsFirstByte checks that a blob of which upstream sends
// the header and then closes the connection, each time that it is asked, is a 502.
func TestBlobThatBreaksOffBeforeItsFirstByte(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 300_000)
	d := up.PutBlob("library/alpine", layer)
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	up.CutBlobs(0, 100)
	s.get(blobPath("acme", "alpine", d), as("alice")).expect(t, http.StatusBadGateway, "UNAVAILABLE").has(t, "Etag", "")
	up.Heal()
	s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer)
}
