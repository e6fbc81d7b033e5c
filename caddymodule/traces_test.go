package caddymodule

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

const (
	clientTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	getManifest = "GET /v2/{name}/manifests/{reference}"
	getBlob     = "GET /v2/{name}/blobs/{digest}"
)

// traced sends the header of a client that traces.
func traced() sitetest.RequestOption {
	return func(r *http.Request) {
		r.Header.Set("Traceparent", "00-"+clientTrace+"-00f067aa0ba902b7-01")
		r.Header.Set("Tracestate", "vendor=state")
		r.Header.Set("Baggage", "user=alice")
	}
}

// refuseTraceHeaders fails the test if a request to a registry has a header about a
// trace.
func refuseTraceHeaders(t *testing.T, up *registrytest.Registry) {
	up.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		for name := range r.Header {
			switch lower := strings.ToLower(name); {
			case lower == "traceparent", lower == "tracestate", lower == "baggage", strings.Contains(lower, "b3"), strings.Contains(lower, "trace"):
				t.Errorf("%s %s: got the header %s at the upstream, want none about a trace", r.Method, r.URL.Path, name)
			}
		}
		return false
	})
}

// TestTraces checks the spans of pulls that a client traces, and that neither they nor
// the requests to upstream tell what they should not.
func TestTraces(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword), registrytest.WithBlobRedirect())
	layer := sitetest.Random(1, 200_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	refuseTraceHeaders(t, up)
	s, c := newTracedSite(t)
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, sitetest.HubCredentials(t)))
	token := s.Token("alice")
	for _, site := range c.await("site", 1) {
		if login := c.await("directory login", 1)[0]; !within(login, site) || attribute(login, "dependency_proxy.directory") != "static" {
			t.Errorf("login: got the span %s, want one of the directory static in %s", login, site)
		}
	}
	c.forget()

	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.Bearer(token), traced()).Expect(t, http.StatusOK, "")
	site, pull := c.await("site", 1)[0], c.await("pull manifest", 1)[0]
	if !within(pull, site) || !within(c.await("directory lookup", 1)[0], pull) || !within(c.await(getManifest, 1)[0], pull) {
		t.Errorf("manifest: got spans %s, want those of the directory and of upstream in the pull, and that in the site's", c.text())
	}
	expectAttributes(t, pull, map[string]string{
		"dependency_proxy.group": "acme", "dependency_proxy.upstream": "docker.io", "dependency_proxy.result": "miss",
		"container.image.name": "docker.io/library/alpine", "container.image.tags": "3.20", "oci.manifest.digest": string(image.Manifest),
	})
	expectAttributes(t, c.all(getManifest)[0], map[string]string{
		"http.request.method": "GET", "url.full": up.URL() + "/v2/library/alpine/manifests/" + string(image.Manifest),
		"dependency_proxy.upstream": "docker.io", "server.address": "127.0.0.1",
	})
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.Bearer(token), traced()).Expect(t, http.StatusOK, "")
	expectAttributes(t, c.await("pull manifest", 2)[1], map[string]string{"dependency_proxy.result": "hit", "dependency_proxy.source": "cache"})
	if got := len(c.all(getManifest)); got != 1 {
		t.Errorf("hit: got %d requests to upstream, want 1 of the miss before", got)
	}
	s.Get(sitetest.ManifestPath("acme", "alpine", "missing"), sitetest.Bearer(token)).Expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	expectAttributes(t, c.await("pull manifest", 3)[2], map[string]string{"dependency_proxy.result": "absent"})
	up.Fail(registrytest.Failure{Status: http.StatusInternalServerError})
	s.Get(sitetest.ManifestPath("acme", "alpine", "other"), sitetest.Bearer(token)).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	if failed := c.await("pull manifest", 4)[3]; failed.Status.GetCode() != trace.Status_STATUS_CODE_ERROR || attribute(failed, "error.type") != "unavailable" {
		t.Errorf("outage: got the span %s, want an error of type unavailable", failed)
	}

	for _, secret := range append(s.Secrets, "alice", "?") {
		if strings.Contains(c.text(), secret) {
			t.Errorf("got %q in the spans, want neither accounts nor secrets nor queries: %s", secret, c.text())
		}
	}
}

// expectAttributes checks attributes of a span.
func expectAttributes(t *testing.T, span *trace.Span, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if got := attribute(span, key); got != value {
			t.Errorf("span %s: got %q for %s, want %q", span.Name, got, key, value)
		}
	}
}

// TestFillTraces checks that the span of a download is in the trace of the request
// that has started it, and that a request that follows the download links to it.
func TestFillTraces(t *testing.T) {
	up := registrytest.New(t, registrytest.WithBlobRedirect())
	layer := sitetest.Random(1, 200_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	refuseTraceHeaders(t, up)
	s, c := newTracedSite(t)
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	token := s.Token("alice")
	release := up.StallBlobs(1000)
	path := sitetest.BlobPath("acme", "alpine", image.Layers[0])
	first := s.Open(path, sitetest.Bearer(token), traced())
	second := s.Open(path, sitetest.Bearer(token))
	release()
	var both sync.WaitGroup
	for _, response := range []*http.Response{first, second} {
		both.Go(func() { s.Finish(response).Content(t, layer) })
	}
	both.Wait()

	fill := c.await("fill", 1)[0]
	for _, pull := range c.await("pull blob", 2) {
		starts, follows := within(fill, pull) && links(fill, pull), links(pull, fill)
		if joined := attribute(pull, "dependency_proxy.result") == "joined"; starts == joined || follows != joined {
			t.Errorf("got the spans %s and %s, want that of the fill in and linked to the one that has started it, and the other linked to the fill", pull, fill)
		}
	}
	expectAttributes(t, fill, map[string]string{"dependency_proxy.digest": string(image.Layers[0])})
	if redirect := c.await(getBlob, 1)[0]; !within(redirect, fill) {
		t.Errorf("got the span %s, want it in that of the fill", redirect)
	}
	storage := c.await("GET", 1)[0]
	if !within(storage, fill) {
		t.Errorf("got the span %s, want it in that of the fill", storage)
	}
	expectAttributes(t, storage, map[string]string{"url.full": "http://" + up.StorageHost()})
	if strings.Contains(c.text(), registrytest.Signature) {
		t.Errorf("got the signature of a URL in the spans, want none: %s", c.text())
	}
}

// TestTraceProviderEnds checks that a download goes on when the configuration that
// traces it has ended, and with it the provider of its span.
func TestTraceProviderEnds(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 200_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	newCollector(t)
	s := sitetest.NewSite(t)
	s.Before = "tracing"
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up)}
	s.Load(lines...)
	release := up.StallBlobs(1000)
	response := s.Open(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice"))
	_ = response.Body.Close()
	s.Before = ""
	s.Load(lines...)
	release()
	s.AwaitStored(string(image.Layers[0]))
	s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice")).Content(t, layer)
	sitetest.ExpectRequests(t, up, "a blob whose download has outlived the tracing", registrytest.Counts{BlobGet: 1})
}
