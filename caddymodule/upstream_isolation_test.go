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

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/porttest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// startWithTwoUpstreams starts a site with a second upstream beside Docker Hub,
// for the group blue, and returns both registries.
func startWithTwoUpstreams(t *testing.T) (s *sitetest.Site, red, evil *registrytest.Registry) {
	t.Helper()
	red, evil = registrytest.New(t), registrytest.New(t)
	s = sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("red", "alice"), sitetest.Private("blue", "bob"), sitetest.Hub(red), sitetest.UpstreamAt(sitetest.BlueUpstream, evil.URL()))
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
func addSecondSite(t *testing.T, s *sitetest.Site, lines ...string) *sitetest.Site {
	t.Helper()
	host := porttest.Reserve(t)
	s.After = fmt.Sprintf("http://:%s {\n bind 127.0.0.1\n dependency_proxy {\n storage filesystem %s {\n reserve off\n }\n %s\n }\n}",
		sitetest.PortOf(host), s.Cache, strings.Join(lines, "\n"))
	return &sitetest.Site{T: t, URL: "http://" + host, Host: host}
}

// TestUpstreamsDownloadSeparately checks that what one upstream sends or claims
// for a digest does not affect pulls of the same digest from another upstream.
func TestUpstreamsDownloadSeparately(t *testing.T) {
	const size = 1 << 20
	layer, forged := sitetest.Random(1, size), bytes.Repeat([]byte("forged! "), size/8)
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
			first := s.Open(sitetest.BlobPath("blue", sitetest.BlueUpstream+"/x/y", d), sitetest.As("bob"))
			if _, err := io.ReadFull(first.Body, make([]byte, row.first/2)); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			part := s.Get(sitetest.BlobPath("red", "team/app", d), sitetest.As("alice"), sitetest.Header("Range", "bytes=4096-8191")).Expect(t, http.StatusPartialContent, "")
			if !bytes.Equal(part.Data, layer[4096:8192]) {
				t.Errorf("got the range %.40q, want %.40q", part.Data, layer[4096:8192])
			}
			s.Get(sitetest.BlobPath("red", "team/app", d), sitetest.As("alice")).Content(t, layer).Has(t, "Content-Length", strconv.Itoa(size))
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
	image := red.PutImage("team/secret", "1", sitetest.Random(1, 5000))
	sitetest.Pull(t, s, "red", "team/secret", "1", sitetest.As("alice"))
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
		sitetest.ManifestPath("blue", sitetest.BlueUpstream+"/x/y", string(image.Manifest)), sitetest.ManifestPath("blue", sitetest.BlueUpstream+"/x/y", "1"),
		sitetest.BlobPath("blue", sitetest.BlueUpstream+"/x/y", image.Config), sitetest.BlobPath("blue", sitetest.BlueUpstream+"/x/y", image.Layers[0]),
	}
	for _, path := range paths {
		for _, change := range []sitetest.RequestOption{sitetest.Method(http.MethodHead), sitetest.Method(http.MethodGet), sitetest.Header("Range", "bytes=0-9"), sitetest.Method(http.MethodHead), sitetest.Method(http.MethodGet)} {
			a := s.Get(path, sitetest.As("bob"), change)
			if a.Request.Method == http.MethodGet {
				status, code := http.StatusNotFound, "NAME_UNKNOWN"
				if strings.HasSuffix(path, "/1") {
					status, code = http.StatusBadGateway, "UNAVAILABLE" // HEAD names a tag that GET does not find
				}
				a.Expect(t, status, code).Has(t, "Docker-Content-Digest", "")
			}
		}
	}
	// Content that the upstream delivers itself is served, and then a HEAD
	// is enough.
	evil.Heal()
	own := evil.PutImage("x/y", "2", sitetest.Random(1, 5000))
	evil.PutImage("x/z", "2", sitetest.Random(1, 5000))
	if own.Layers[0] != image.Layers[0] {
		t.Fatal("got different layers, want equal ones, or else the test proves nothing")
	}
	evil.Reset()
	sitetest.Pull(t, s, "blue", sitetest.BlueUpstream+"/x/y", "2", sitetest.As("bob"))
	sitetest.ExpectRequests(t, evil, "what only another upstream has delivered", registrytest.Counts{ManifestHead: 1, ManifestGet: 1, BlobGet: 2})
	sitetest.Pull(t, s, "blue", sitetest.BlueUpstream+"/x/z", "2", sitetest.As("bob"))
	sitetest.ExpectRequests(t, evil, "another repository", registrytest.Counts{ManifestHead: 1, BlobHead: 2})
	files := 0
	for _, name := range s.Stored() {
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
	image := good.PutImage("team/secret", "1", sitetest.Random(1, 5000))
	s := sitetest.NewSite(t)
	second := addSecondSite(t, s, sitetest.Users("bob"), sitetest.Private("acme", "bob"), "name two", sitetest.Hub(evil))
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(good))
	sitetest.Pull(t, s, "acme", "team/secret", "1", sitetest.As("alice"))
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
		sitetest.ManifestPath("acme", "team/secret", "1"), sitetest.ManifestPath("acme", "team/secret", string(image.Manifest)),
		sitetest.BlobPath("acme", "team/secret", image.Config), sitetest.BlobPath("acme", "team/secret", image.Layers[0]),
	} {
		if a := second.Get(path, sitetest.As("bob")); a.StatusCode != http.StatusNotFound && a.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: got %d with %d bytes, want 404 or 502", path, a.StatusCode, len(a.Data))
		}
	}
	s.Get(sitetest.ManifestPath("acme", "team/secret", "1"), sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Cache-Status", "dependency-proxy; hit")
}

// TestUpstreamPlainRedirect checks that only verified whole content is served
// if an https registry redirects to plain http.
func TestUpstreamPlainRedirect(t *testing.T) {
	up := registrytest.New(t, registrytest.WithTLS(), registrytest.WithBlobRedirect())
	layer := sitetest.Random(1, 300_000)
	d := up.PutBlob("team/app", layer)
	up.PutBlob("team/other", layer)
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("red", "alice"), sitetest.Private("blue", "bob"),
		sitetest.Hub(up, "transport http {\n tls_insecure_skip_verify\n}"))
	path := sitetest.BlobPath("red", "team/app", d)

	release := up.StallBlobs(200_000)
	cold := s.Open(path, sitetest.As("alice"), sitetest.Header("Range", "bytes=10-19"))
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
	s.AwaitStored(string(d))
	part := s.Get(path, sitetest.As("alice"), sitetest.Header("Range", "bytes=10-19")).Expect(t, http.StatusPartialContent, "")
	if !bytes.Equal(part.Data, layer[10:20]) {
		t.Errorf("got the range %q, want %q", part.Data, layer[10:20])
	}
	up.Reset()
	// Neither a HEAD nor the header of a GET confirms it for another repository.
	s.Get(sitetest.BlobPath("blue", "team/other", d), sitetest.As("bob")).Content(t, layer)
	sitetest.Eventually(t, "a whole download for the second repository is counted", func() bool { return up.Counts().BlobBytes == int64(len(layer)) })
	s.Head(sitetest.BlobPath("blue", "team/other", d), sitetest.As("bob")).Expect(t, http.StatusOK, "").Has(t, "Content-Length", strconv.Itoa(len(layer)))
	s.Head(sitetest.BlobPath("blue", "team/app", d), sitetest.As("bob")).Expect(t, http.StatusOK, "").Has(t, "Content-Length", strconv.Itoa(len(layer)))
	up.Fail(registrytest.Failure{Op: registrytest.OpStorage, Status: http.StatusOK, Header: http.Header{"Content-Length": {"300000"}}, Body: strings.Repeat("x", 300_000)})
	for _, verb := range []string{http.MethodHead, http.MethodGet} {
		if a := s.Get(sitetest.BlobPath("red", "team/other", d), sitetest.As("alice"), sitetest.Method(verb)); a.StatusCode == http.StatusOK && a.Err == nil {
			t.Errorf("%s of forged content: got 200 with %d bytes, want an error", verb, len(a.Data))
		}
	}
}

// TestEndpointFingerprint checks that all options that decide where the content
// of an endpoint comes from are part of its fingerprint, and that its
// credentials are not.
func TestEndpointFingerprint(t *testing.T) {
	t.Setenv("HUB_PASSWORD", sitetest.UpstreamPassword)
	const address = "http://127.0.0.1:1"
	s, seen := sitetest.NewSite(t), make(map[string]string)
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
		s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), "upstream docker.io {\n "+row.lines+"\n}")
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
