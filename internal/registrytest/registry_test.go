package registrytest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// ask sends a request and returns the response and its body. It does not follow
// redirects.
func ask(t *testing.T, r *Registry, method, url string, header ...string) (*http.Response, []byte, error) {
	t.Helper()
	if strings.HasPrefix(url, "/") {
		url = r.URL() + url
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func TestRegistryServe(t *testing.T) {
	r := New(t, WithPrefix("/some/where/"))
	image := r.PutImage("acme/app", "1.0", []byte("layer"))
	r.PutManifest("acme/app", v1.MediaTypeImageManifest, r.RawManifest("acme/app", image.Manifest), "1.1", "1.2")
	r.PutImage("acme/other", "1.0", []byte("another"))
	index := r.PutIndex("acme/app", "multi", image)
	m, layer := "/v2/acme/app/manifests/", "/v2/acme/app/blobs/"+string(image.Layers[0])

	for _, test := range []struct {
		method, path string
		header       []string
		status       int
		body         string
	}{
		{"GET", "/v2/", nil, 200, "{}"},
		{"GET", m + "1.0", nil, 200, string(r.RawManifest("acme/app", image.Manifest))},
		{"HEAD", m + string(image.Manifest), nil, 200, ""},
		{"GET", m + "multi", nil, 200, string(r.RawManifest("acme/app", index))},
		{"GET", m + "2.0", nil, 404, `MANIFEST_UNKNOWN`},
		{"GET", "/v2/acme/none/manifests/1.0", nil, 404, `NAME_UNKNOWN`},
		{"PUT", m + "1.0", nil, 405, `UNSUPPORTED`},
		{"GET", layer, nil, 200, "layer"},
		{"HEAD", layer, nil, 200, ""},
		{"GET", layer, []string{"Range", "bytes=2-"}, 206, "yer"},
		{"GET", layer, []string{"Range", "bytes=2-", "If-Range", `"` + string(image.Layers[0]) + `"`}, 206, "yer"},
		{"GET", layer, []string{"Range", "bytes=2-", "If-Range", `"other"`}, 200, "layer"},
		{"GET", layer, []string{"Range", "bytes=5-"}, 416, ""},
		{"GET", "/v2/acme/other/blobs/" + string(image.Layers[0]), nil, 404, `BLOB_UNKNOWN`},
		{"GET", "/v2/acme/app/tags/list", nil, 200, `["1.0","1.1","1.2","multi"]`},
		{"GET", "/v2/acme/app/tags/list?n=2&last=1.0", nil, 200, `["1.1","1.2"]`},
		{"GET", "/elsewhere", nil, 404, ""},
	} {
		resp, body, err := ask(t, r, test.method, test.path, test.header...)
		if err != nil || resp.StatusCode != test.status || !strings.Contains(string(body), test.body) {
			t.Errorf("%s %s %v: got %d %q, %v, want %d %q", test.method, test.path, test.header, resp.StatusCode, body, err, test.status, test.body)
		}
		if test.status == 200 && resp.ContentLength < 0 {
			t.Errorf("%s %s: got no Content-Length", test.method, test.path)
		}
	}
	want := Counts{Ping: 1, ManifestHead: 1, ManifestGet: 4, BlobHead: 1, BlobGet: 6, Tags: 2, Other: 2, BlobBytes: 5 + 3 + 3 + 5}
	if got := r.Counts(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	r.Reset()
	if got := r.Counts(); got != (Counts{}) {
		t.Errorf("after a reset: got %+v, want zero counts", got)
	}
	resp, _, _ := ask(t, r, "GET", "/v2/acme/app/tags/list?n=1")
	if got, want := resp.Header.Get("Link"), `</some/where/v2/acme/app/tags/list?last=1.0&n=1>; rel="next"`; got != want {
		t.Errorf("got Link %s, want %s", got, want)
	}
}

func TestRegistryDeleteRepository(t *testing.T) {
	r := New(t)
	r.PutImage("a", "1", []byte("x"))
	r.DeleteRepository("a")
	if resp, _, _ := ask(t, r, "GET", "/v2/a/tags/list"); resp.StatusCode != 404 {
		t.Errorf("tags of a deleted repository: got %d, want 404", resp.StatusCode)
	}
}

func TestRegistryReferrers(t *testing.T) {
	r := New(t, WithPageSize(1))
	image := r.PutImage("a", "1", []byte("x"))
	r.PutReferrer("a", image.Manifest, "test/sbom", []byte("sbom"))
	r.PutReferrer("a", image.Manifest, "test/signature", []byte("signature"))
	resp, body, _ := ask(t, r, "GET", "/v2/a/referrers/"+string(image.Manifest))
	var index v1.Index
	if err := json.Unmarshal(body, &index); err != nil || len(index.Manifests) != 1 || resp.Header.Get("Link") == "" {
		t.Errorf("first page: got %s, %v, want one referrer and a Link", body, err)
	}
	_, body, _ = ask(t, r, "GET", "/v2/a/referrers/"+string(image.Manifest)+"?artifactType=test/sbom")
	if err := json.Unmarshal(body, &index); err != nil || len(index.Manifests) != 1 || index.Manifests[0].ArtifactType != "test/sbom" {
		t.Errorf("filtered by type: got %s, %v, want one referrer of type test/sbom", body, err)
	}
}

func TestRegistryToken(t *testing.T) {
	r := New(t, WithToken("user", "pass"))
	r.PutImage("a", "1", []byte("x"))
	r.PutImage("b", "1", []byte("x"))
	resp, _, _ := ask(t, r, "GET", "/v2/a/manifests/1")
	if got := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != 401 || !strings.Contains(got, `realm="`+r.URL()+`/token"`) {
		t.Errorf("without a token: got %d, challenge %s, want 401 and the realm /token", resp.StatusCode, got)
	}
	if resp, _, _ := ask(t, r, "GET", "/token?service=registrytest&scope=repository:a:pull"); resp.StatusCode != 401 {
		t.Errorf("token request without a login: got %d, want 401", resp.StatusCode)
	}
	_, body, _ := ask(t, r, "GET", "/token?service=registrytest&scope=repository:a:pull", "Authorization", "Basic dXNlcjpwYXNz")
	var answer struct{ Token string }
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	status := func(repo string) int {
		resp, _, _ := ask(t, r, "GET", "/v2/"+repo+"/manifests/1", "Authorization", "Bearer "+answer.Token)
		return resp.StatusCode
	}
	if a, b := status("a"), status("b"); a != 200 || b != 401 {
		t.Errorf("token for repository a: got %d for a and %d for b, want 200 and 401", a, b)
	}
	r.RevokeTokens()
	if got := status("a"); got != 401 {
		t.Errorf("revoked token: got %d, want 401", got)
	}
}

func TestRegistryBlobRedirect(t *testing.T) {
	r := New(t, WithBlobRedirectGetOnly())
	d := r.PutBlob("a", []byte("content"))
	resp, _, _ := ask(t, r, "GET", "/v2/a/blobs/"+string(d))
	location := resp.Header.Get("Location")
	if resp.StatusCode != 307 || !strings.Contains(location, r.StorageHost()) {
		t.Fatalf("got %d to %s, want 307 to %s", resp.StatusCode, location, r.StorageHost())
	}
	if _, body, _ := ask(t, r, "GET", location, "Range", "bytes=3-"); string(body) != "tent" {
		t.Errorf("range from the storage: got %q, want %q", body, "tent")
	}
	if resp, _, _ := ask(t, r, "HEAD", location); resp.StatusCode != 403 {
		t.Errorf("HEAD to the storage: got %d, want 403", resp.StatusCode)
	}
	if got := r.Counts(); got.Storage != 2 || got.BlobGet != 1 || got.BlobBytes != 4 {
		t.Errorf("got %+v, want 2 requests to the storage, 1 GET of a blob and 4 bytes", got)
	}
}

func TestRegistryFaults(t *testing.T) {
	r := New(t)
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	d := r.PutBlob("a", content)
	path := "/v2/a/blobs/" + string(d)

	r.CutBlobs(12_345, 2)
	for range 2 {
		if _, body, err := ask(t, r, "GET", path); err == nil || len(body) != 12_345 {
			t.Errorf("CutBlobs: got %d bytes, %v, want 12345 and an error", len(body), err)
		}
	}
	if _, body, err := ask(t, r, "GET", path); err != nil || len(body) != len(content) {
		t.Errorf("after the cuts: got %d bytes, %v, want %d", len(body), err, len(content))
	}

	r.CorruptBlobs(1)
	if _, body, _ := ask(t, r, "GET", path); len(body) != len(content) || digest.FromBytes(body) == d {
		t.Errorf("CorruptBlobs: got %d bytes of digest %s, want %d of another digest", len(body), digest.FromBytes(body), len(content))
	}
	if !bytes.HasPrefix(content, []byte("0123")) {
		t.Error("CorruptBlobs has changed the stored content")
	}

	r.Fail(Failure{Op: OpBlob, Method: "GET", Status: 429, Header: http.Header{"Retry-After": {"7"}}, Times: 1})
	resp, _, _ := ask(t, r, "GET", path)
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "7" {
		t.Errorf("Fail: got %d, Retry-After %q, want 429 and 7", resp.StatusCode, resp.Header.Get("Retry-After"))
	}

	r.Throttle(1 << 20)
	start := time.Now()
	if _, body, err := ask(t, r, "GET", path); err != nil || digest.FromBytes(body) != d {
		t.Errorf("Throttle: got digest %s, %v, want %s", digest.FromBytes(body), err, d)
	}
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("Throttle: 100 kB at 1 MiB/s took %v, want at least 50ms", took)
	}
	r.Heal()

	r.SetFault(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(418); return true })
	if resp, _, _ := ask(t, r, "GET", path); resp.StatusCode != 418 {
		t.Errorf("SetFault: got %d, want 418", resp.StatusCode)
	}
	r.Heal()
	if resp, _, _ := ask(t, r, "GET", path); resp.StatusCode != 200 {
		t.Errorf("after Heal: got %d, want 200", resp.StatusCode)
	}
}

func TestRegistryFaultRanges(t *testing.T) {
	r := New(t)
	d := r.PutBlob("a", []byte("content"))
	path, etag := "/v2/a/blobs/"+string(d), `"`+string(d)+`"`
	for _, test := range []struct {
		fault RangeFault
		body  string
	}{{RangesRight, "nte"}, {RangesIgnored, "content"}, {RangesRenamed, "content"}, {RangesShifted, "ten"}} {
		r.FaultRanges(test.fault, 1)
		for _, want := range []string{"nte", test.body, test.body} {
			if _, body, err := ask(t, r, "GET", path, "Range", "bytes=2-4", "If-Range", etag); err != nil || string(body) != want {
				t.Errorf("fault %d: got %q, %v, want %q", test.fault, body, err, want)
			}
		}
		if _, body, err := ask(t, r, "GET", path); err != nil || string(body) != "content" {
			t.Errorf("fault %d, without a range: got %q, %v, want %q", test.fault, body, err, "content")
		}
	}
	r.Heal()
	if _, body, _ := ask(t, r, "GET", path, "Range", "bytes=2-4"); string(body) != "nte" {
		t.Errorf("after Heal: got %q, want %q", body, "nte")
	}
	got := r.Ranges()
	if len(got) != 17 || got[0] != "bytes=2-4" || got[3] != "" {
		t.Errorf("got ranges %q, want 17, the fourth empty", got)
	}
	r.Reset()
	if got := r.Ranges(); len(got) != 0 {
		t.Errorf("after Reset: got ranges %q, want none", got)
	}
}

func TestRegistryStallBlobs(t *testing.T) {
	r := New(t)
	content := bytes.Repeat([]byte("x"), 100_000)
	d := r.PutBlob("a", content)
	release := r.StallBlobs(1000)
	resp, err := http.Get(r.URL() + "/v2/a/blobs/" + string(d))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if sent := r.Counts().BlobBytes; sent != 1000 {
		t.Errorf("stalled: got %d bytes, want 1000", sent)
	}
	release()
	release() // a second call has no effect
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != len(content)-1000 {
		t.Errorf("after the stall: got %d bytes, %v, want %d", len(rest), err, len(content)-1000)
	}
}
