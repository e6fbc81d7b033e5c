package sitetest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// Pull pulls an image by tag, as a client does, and checks its digests.
func Pull(t testing.TB, s *Site, group, image, tag string, who RequestOption) {
	t.Helper()
	m := s.Get(ManifestPath(group, image, tag), who).Expect(t, http.StatusOK, "")
	if d := digest.FromBytes(m.Data); string(d) != m.Header.Get("Docker-Content-Digest") {
		t.Fatalf("manifest of %s: got content with the digest %s, want %s", image, d, m.Header.Get("Docker-Content-Digest"))
	}
	for _, d := range blobsIn(t, m.Data) {
		b := s.Get(BlobPath(group, image, d), who).Expect(t, http.StatusOK, "")
		if digest.FromBytes(b.Data) != d {
			t.Errorf("got %d bytes with the digest %s, want %s", len(b.Data), digest.FromBytes(b.Data), d)
		}
		s.AwaitStored(string(d))
	}
}

// blobsIn returns the config and the layers of a manifest.
func blobsIn(t testing.TB, manifest []byte) []digest.Digest {
	t.Helper()
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		t.Fatal(err)
	}
	blobs := []digest.Digest{m.Config.Digest}
	for _, layer := range m.Layers {
		blobs = append(blobs, layer.Digest)
	}
	return blobs
}

// ExpectRequests checks the requests to upstream since the last call, and
// resets them.
func ExpectRequests(t *testing.T, up *registrytest.Registry, what string, want registrytest.Counts) {
	t.Helper()
	got := up.Counts()
	up.Reset()
	if got.BlobBytes = 0; got != want {
		t.Errorf("%s: got requests %+v, want %+v", what, got, want)
	}
}

// ExpectBroken checks that a transfer fails visibly, before or after the
// header. It uses a new connection, since the client would repeat a request on
// a reused one.
func (s *Site) ExpectBroken(path string, changes ...RequestOption) {
	s.T.Helper()
	request, err := http.NewRequestWithContext(s.T.Context(), http.MethodGet, s.URL+path, nil)
	if err != nil {
		s.T.Fatal(err)
	}
	for _, change := range append(changes, As("alice")) {
		change(request)
	}
	request.Close = true
	Client.CloseIdleConnections()
	response, err := Client.Do(request)
	if errors.Is(err, io.EOF) {
		return
	}
	if err != nil {
		s.T.Fatal(err)
	}
	if response.StatusCode == http.StatusBadGateway { // detected before the header was sent
		s.Finish(response).Expect(s.T, http.StatusBadGateway, "UNAVAILABLE")
		return
	}
	if a := s.Finish(response); !errors.Is(a.Err, io.ErrUnexpectedEOF) || int64(len(a.Data)) >= response.ContentLength {
		s.T.Errorf("%s: got %d, %d of %d bytes, error %v; want a transfer that breaks off", path, a.StatusCode, len(a.Data), response.ContentLength, a.Err)
	}
}

// ExpectPull checks the status of a pull from a group.
func (s *Site) ExpectPull(group string, status int, changes ...RequestOption) {
	s.T.Helper()
	code := map[int]string{200: "", 401: "UNAUTHORIZED", 403: "DENIED", 503: "UNAVAILABLE"}[status]
	s.Get(ManifestPath(group, "alpine", "3.20"), changes...).Expect(s.T, status, code)
}

// PullStatus returns the status of a pull from a group: 404 if the pull is
// allowed and upstream does not have the image.
func PullStatus(s *Site, group string, who RequestOption) int {
	s.T.Helper()
	return s.Get(ManifestPath(group, "alpine", "3.20"), who).StatusCode
}

// LargeSize is larger than the first range that a download requests.
const LargeSize = 36 << 20

// ZeroDigest is the digest of no content.
const ZeroDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// LargeLayer returns content of LargeSize and its digest. It must not be changed.
var LargeLayer = sync.OnceValues(func() ([]byte, digest.Digest) {
	content := Random(7, LargeSize)
	return content, digest.FromBytes(content)
})
