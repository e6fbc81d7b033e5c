package caddymodule

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// pull pulls an image by tag, as a client does, and checks its digests.
func pull(t testing.TB, s *site, group, image, tag string, who requestOption) {
	t.Helper()
	m := s.get(manifestPath(group, image, tag), who).expect(t, http.StatusOK, "")
	if d := digest.FromBytes(m.body); string(d) != m.Header.Get("Docker-Content-Digest") {
		t.Fatalf("manifest of %s: got content with the digest %s, want %s", image, d, m.Header.Get("Docker-Content-Digest"))
	}
	for _, d := range blobsIn(t, m.body) {
		b := s.get(blobPath(group, image, d), who).expect(t, http.StatusOK, "")
		if digest.FromBytes(b.body) != d {
			t.Errorf("got %d bytes with the digest %s, want %s", len(b.body), digest.FromBytes(b.body), d)
		}
		s.awaitStored(string(d))
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

// expectRequests checks the requests to upstream since the last call, and
// resets them.
func expectRequests(t *testing.T, up *registrytest.Registry, what string, want registrytest.Counts) {
	t.Helper()
	got := up.Counts()
	up.Reset()
	if got.BlobBytes = 0; got != want {
		t.Errorf("%s: got requests %+v, want %+v", what, got, want)
	}
}

// expectBroken checks that a transfer fails visibly, before or after the
// header. It uses a new connection, since the client would repeat a request on
// a reused one.
func (s *site) expectBroken(path string, changes ...requestOption) {
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
	if response.StatusCode == http.StatusBadGateway { // detected before the header was sent
		s.finish(response).expect(s.t, http.StatusBadGateway, "UNAVAILABLE")
		return
	}
	if a := s.finish(response); !errors.Is(a.err, io.ErrUnexpectedEOF) || int64(len(a.body)) >= response.ContentLength {
		s.t.Errorf("%s: got %d, %d of %d bytes, error %v; want a transfer that breaks off", path, a.StatusCode, len(a.body), response.ContentLength, a.err)
	}
}

// expectPull checks the status of a pull from a group.
func (s *site) expectPull(group string, status int, changes ...requestOption) {
	s.t.Helper()
	code := map[int]string{200: "", 401: "UNAUTHORIZED", 403: "DENIED", 503: "UNAVAILABLE"}[status]
	s.get(manifestPath(group, "alpine", "3.20"), changes...).expect(s.t, status, code)
}

// pullStatus returns the status of a pull from a group: 404 if the pull is
// allowed and upstream does not have the image.
func pullStatus(s *site, group string, who requestOption) int {
	s.t.Helper()
	return s.get(manifestPath(group, "alpine", "3.20"), who).StatusCode
}

// largeSize is larger than the first range that a download requests.
const largeSize = 36 << 20

// zeroDigest is the digest of no content.
const zeroDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
