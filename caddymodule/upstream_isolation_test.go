package caddymodule

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/porttest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// startWithTwoUpstreams starts a site with a second upstream beside Docker Hub,
// for the group blue, and returns both registries.
func startWithTwoUpstreams(t *testing.T) (s *site, red, evil *registrytest.Registry) {
	t.Helper()
	red, evil = registrytest.New(t), registrytest.New(t)
	s = start(t, users("alice", "bob"), private("red", "alice"), private("blue", "bob"), hub(red), upstreamAt(blueUpstream, evil.URL()))
	return s, red, evil
}

// withholdContent makes the registry answer each GET of a blob with the first
// bytes of content only, and with the rest when the test ends.
func withholdContent(t *testing.T, evil *registrytest.Registry, content []byte, first int) {
	t.Helper()
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	evil.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Header().Set("Content-Type", "application/octet-stream")
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodHead {
			return true
		}
		_, _ = w.Write(content[:first])
		w.(http.Flusher).Flush()
		select {
		case <-end:
			_, _ = w.Write(content[first:])
		case <-r.Context().Done():
		}
		return true
	})
}

// addSecondSite adds a site with the given lines and the same storage to the
// next configuration of s.
func addSecondSite(t *testing.T, s *site, lines ...string) *site {
	t.Helper()
	host := porttest.Reserve(t)
	s.after = fmt.Sprintf("http://:%s {\n bind 127.0.0.1\n dependency_proxy {\n storage filesystem %s {\n reserve off\n }\n %s\n }\n}",
		portOf(host), s.cache, strings.Join(lines, "\n"))
	return &site{t: t, url: "http://" + host, host: host}
}

// TestUpstreamsDownloadSeparately checks that what one upstream sends or claims
// for a digest does not affect pulls of the same digest from another upstream.
func TestUpstreamsDownloadSeparately(t *testing.T) {
	const size = 1 << 20
	layer, forged := random(1, size), bytes.Repeat([]byte("forged! "), size/8)
	for name, row := range map[string]struct {
		content []byte
		first   int
	}{
		"forged":   {forged, size - 1},
		"dripping": {forged, 1},
		"short":    {forged[:10], 9},
	} {
		t.Run(name, func(t *testing.T) {
			s, red, evil := startWithTwoUpstreams(t)
			d := red.PutBlob("team/app", layer)
			withholdContent(t, evil, row.content, row.first)
			first := s.open(blobPath("blue", blueUpstream+"/x/y", d), as("bob"))
			if _, err := io.ReadFull(first.Body, make([]byte, row.first/2)); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			part := s.get(blobPath("red", "team/app", d), as("alice"), header("Range", "bytes=4096-8191")).expect(t, http.StatusPartialContent, "")
			if !bytes.Equal(part.body, layer[4096:8192]) {
				t.Errorf("got the range %.40q, want %.40q", part.body, layer[4096:8192])
			}
			s.get(blobPath("red", "team/app", d), as("alice")).content(t, layer).has(t, "Content-Length", strconv.Itoa(size))
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("the pulls took %v, want at most 10s", took)
			}
			if counts := red.Counts(); counts.BlobGet != 1 {
				t.Errorf("got requests %+v to docker.io, want one GET", counts)
			}
			_ = first.Body.Close()
		})
	}
}

// TestUpstreamHeadGrantsNoAccess checks that an upstream that accepts every
// HEAD gives no access to content of another upstream.
func TestUpstreamHeadGrantsNoAccess(t *testing.T) {
	s, red, evil := startWithTwoUpstreams(t)
	image := red.PutImage("team/secret", "1", random(1, 5000))
	pull(t, s, "red", "team/secret", "1", as("alice"))
	evil.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodHead {
			return false
		}
		h := w.Header()
		h.Set("Docker-Content-Digest", string(image.Manifest))
		h.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		h.Set("Content-Length", "777")
		if strings.Contains(r.URL.Path, "/blobs/") {
			h.Set("Content-Length", "5000")
			h.Set("Docker-Content-Digest", r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
		}
		w.WriteHeader(http.StatusOK)
		return true
	})
	paths := []string{
		manifestPath("blue", blueUpstream+"/x/y", string(image.Manifest)), manifestPath("blue", blueUpstream+"/x/y", "1"),
		blobPath("blue", blueUpstream+"/x/y", image.Config), blobPath("blue", blueUpstream+"/x/y", image.Layers[0]),
	}
	for _, path := range paths {
		for _, change := range []requestOption{method(http.MethodHead), method(http.MethodGet), header("Range", "bytes=0-9"), method(http.MethodHead), method(http.MethodGet)} {
			a := s.get(path, as("bob"), change)
			if a.Request.Method == http.MethodGet {
				status, code := http.StatusNotFound, "NAME_UNKNOWN"
				if strings.HasSuffix(path, "/1") {
					status, code = http.StatusBadGateway, "UNAVAILABLE" // HEAD names a tag that GET does not find
				}
				a.expect(t, status, code).has(t, "Docker-Content-Digest", "")
			}
		}
	}
	// Content that the upstream delivers itself is served, and then a HEAD
	// is enough.
	evil.Heal()
	own := evil.PutImage("x/y", "2", random(1, 5000))
	evil.PutImage("x/z", "2", random(1, 5000))
	if own.Layers[0] != image.Layers[0] {
		t.Fatal("got different layers, want equal ones, or else the test proves nothing")
	}
	evil.Reset()
	pull(t, s, "blue", blueUpstream+"/x/y", "2", as("bob"))
	expectRequests(t, evil, "what only another upstream has delivered", registrytest.Counts{ManifestHead: 1, ManifestGet: 1, BlobGet: 2})
	pull(t, s, "blue", blueUpstream+"/x/z", "2", as("bob"))
	expectRequests(t, evil, "another repository", registrytest.Counts{ManifestHead: 1, BlobHead: 2})
	files := 0
	for _, name := range s.stored() {
		if strings.HasPrefix(name, "blobs/") {
			files++
		}
	}
	if files != 3 {
		t.Errorf("got %d stored blobs, want 3", files)
	}
}

// TestUpstreamAddressesAreSeparate checks that sites on one storage with
// different addresses for the same upstream name do not share content.
func TestUpstreamAddressesAreSeparate(t *testing.T) {
	good, evil := registrytest.New(t), registrytest.New(t)
	image := good.PutImage("team/secret", "1", random(1, 5000))
	s := newSite(t)
	second := addSecondSite(t, s, users("bob"), private("acme", "bob"), "name two", hub(evil))
	s.load(users("alice"), private("acme", "alice"), hub(good))
	pull(t, s, "acme", "team/secret", "1", as("alice"))
	evil.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodHead {
			return false
		}
		w.Header().Set("Docker-Content-Digest", r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Content-Length", strconv.Itoa(len(good.RawManifest("team/secret", image.Manifest))))
		return true
	})
	for _, path := range []string{
		manifestPath("acme", "team/secret", "1"), manifestPath("acme", "team/secret", string(image.Manifest)),
		blobPath("acme", "team/secret", image.Config), blobPath("acme", "team/secret", image.Layers[0]),
	} {
		if a := second.get(path, as("bob")); a.StatusCode != http.StatusNotFound && a.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: got %d with %d bytes, want 404 or 502", path, a.StatusCode, len(a.body))
		}
	}
	s.get(manifestPath("acme", "team/secret", "1"), as("alice")).expect(t, http.StatusOK, "").has(t, "Cache-Status", "dependency-proxy; hit")
}

// TestUpstreamPlainRedirect checks that only verified whole content is served
// if an https registry redirects to plain http.
func TestUpstreamPlainRedirect(t *testing.T) {
	up := registrytest.New(t, registrytest.WithTLS(), registrytest.WithBlobRedirect())
	layer := random(1, 300_000)
	d := up.PutBlob("team/app", layer)
	up.PutBlob("team/other", layer)
	s := start(t, users("alice", "bob"), private("red", "alice"), private("blue", "bob"),
		hub(up, "transport http {\n tls_insecure_skip_verify\n}"))
	path := blobPath("red", "team/app", d)

	release := up.StallBlobs(200_000)
	cold := s.open(path, as("alice"), header("Range", "bytes=10-19"))
	if cold.StatusCode != http.StatusOK {
		t.Errorf("a range of unverified content: got %d, want the whole with 200", cold.StatusCode)
	}
	if _, err := io.ReadFull(cold.Body, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	release()
	if rest, err := io.ReadAll(cold.Body); err != nil || !bytes.Equal(rest, layer[100_000:]) {
		t.Errorf("got %d more bytes, error %v; want the rest of %d", len(rest), err, len(layer)-100_000)
	}
	s.awaitStored(string(d))
	part := s.get(path, as("alice"), header("Range", "bytes=10-19")).expect(t, http.StatusPartialContent, "")
	if !bytes.Equal(part.body, layer[10:20]) {
		t.Errorf("got the range %q, want %q", part.body, layer[10:20])
	}
	up.Reset()
	// Neither a HEAD nor the header of a GET confirms it for another repository.
	s.get(blobPath("blue", "team/other", d), as("bob")).content(t, layer)
	eventually(t, "a whole download for the second repository is counted", func() bool { return up.Counts().BlobBytes == int64(len(layer)) })
	s.head(blobPath("blue", "team/other", d), as("bob")).expect(t, http.StatusOK, "").has(t, "Content-Length", strconv.Itoa(len(layer)))
	s.head(blobPath("blue", "team/app", d), as("bob")).expect(t, http.StatusOK, "").has(t, "Content-Length", strconv.Itoa(len(layer)))
	up.Fail(registrytest.Failure{Op: registrytest.OpStorage, Status: http.StatusOK, Header: http.Header{"Content-Length": {"300000"}}, Body: strings.Repeat("x", 300_000)})
	for _, verb := range []string{http.MethodHead, http.MethodGet} {
		if a := s.get(blobPath("red", "team/other", d), as("alice"), method(verb)); a.StatusCode == http.StatusOK && a.err == nil {
			t.Errorf("%s of forged content: got 200 with %d bytes, want an error", verb, len(a.body))
		}
	}
}

// TestEndpointFingerprint checks that all options that decide where the content
// of an endpoint comes from are part of its fingerprint, and that its
// credentials are not.
func TestEndpointFingerprint(t *testing.T) {
	t.Setenv("HUB_PASSWORD", upstreamPassword)
	const address = "http://127.0.0.1:1"
	s, seen := newSite(t), make(map[string]string)
	for name, row := range map[string]struct {
		lines  string
		shared string // the row with the same endpoint
	}{
		"plain":             {"endpoint " + address + "\n allow_private", "plain"},
		"another address":   {"endpoint http://127.0.0.1:2\n allow_private", ""},
		"second address":    {"endpoint " + address + " http://127.0.0.1:2\n allow_private", ""},
		"no private":        {"endpoint " + address, ""},
		"transport":         {"endpoint " + address + "\n allow_private\n transport http {\n tls_insecure_skip_verify\n}", ""},
		"another transport": {"endpoint " + address + "\n allow_private\n transport http {\n tls_server_name other.example\n}", ""},
		"login":             {"endpoint " + address + "\n allow_private\n credentials hub {env.HUB_PASSWORD}", "plain"},
		"realm hosts":       {"endpoint " + address + "\n allow_private\n realm_hosts auth.example", "plain"},
	} {
		s.load(users("alice"), private("acme", "alice"), "upstream docker.io {\n "+row.lines+"\n}")
		endpoint := runningHandler(t).Upstreams[0].sources[""].Endpoint
		if row.shared != "" {
			name = row.shared
		}
		if other, ok := seen[endpoint]; ok && other != name {
			t.Errorf("got the same endpoint for %s and %s, want different ones", other, name)
		}
		for known, other := range seen {
			if other == name && known != endpoint {
				t.Errorf("%s: got another endpoint with other credentials, want the same", name)
			}
		}
		seen[endpoint] = name
	}
	if len(seen) != 6 {
		t.Errorf("got %d endpoints, want 6", len(seen))
	}
}
