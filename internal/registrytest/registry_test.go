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

// ask sends a request, without following redirects.
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

func TestServe(t *testing.T) {
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
			t.Errorf("%s %s %v: %d %q %v", test.method, test.path, test.header, resp.StatusCode, body, err)
		}
		if test.status == 200 && resp.ContentLength < 0 {
			t.Errorf("%s %s: no length", test.method, test.path)
		}
	}
	want := Counts{Ping: 1, ManifestHead: 1, ManifestGet: 4, BlobHead: 1, BlobGet: 6, Tags: 2, Other: 2, BlobBytes: 5 + 3 + 3 + 5}
	if got := r.Counts(); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
	r.Reset()
	if got := r.Counts(); got != (Counts{}) {
		t.Errorf("counts after a reset %+v", got)
	}
	resp, _, _ := ask(t, r, "GET", "/v2/acme/app/tags/list?n=1")
	if got := resp.Header.Get("Link"); got != `</some/where/v2/acme/app/tags/list?last=1.0&n=1>; rel="next"` {
		t.Errorf("link %s", got)
	}
}

func TestDelete(t *testing.T) {
	r := New(t)
	image := r.PutImage("a", "1", []byte("x"))
	r.DeleteTag("a", "1")
	r.DeleteBlob("a", image.Layers[0])
	status := func(path string) int {
		resp, _, _ := ask(t, r, "GET", path)
		return resp.StatusCode
	}
	if status("/v2/a/manifests/1") != 404 || status("/v2/a/blobs/"+string(image.Layers[0])) != 404 {
		t.Error("a deleted tag or blob is still there")
	}
	if status("/v2/a/manifests/"+string(image.Manifest)) != 200 {
		t.Error("the manifest went with its tag")
	}
	r.DeleteManifest("a", image.Manifest)
	if status("/v2/a/manifests/"+string(image.Manifest)) != 404 || status("/v2/a/tags/list") != 200 {
		t.Error("a deleted manifest is still there, or its repository is not")
	}
	r.DeleteRepository("a")
	if status("/v2/a/tags/list") != 404 {
		t.Error("a deleted repository is still there")
	}
}

func TestReferrers(t *testing.T) {
	r := New(t, WithPageSize(1))
	image := r.PutImage("a", "1", []byte("x"))
	r.PutReferrer("a", image.Manifest, "test/sbom", []byte("sbom"))
	r.PutReferrer("a", image.Manifest, "test/signature", []byte("signature"))
	resp, body, _ := ask(t, r, "GET", "/v2/a/referrers/"+string(image.Manifest))
	var index v1.Index
	if err := json.Unmarshal(body, &index); err != nil || len(index.Manifests) != 1 || resp.Header.Get("Link") == "" {
		t.Errorf("first page %s %v", body, err)
	}
	_, body, _ = ask(t, r, "GET", "/v2/a/referrers/"+string(image.Manifest)+"?artifactType=test/sbom")
	if err := json.Unmarshal(body, &index); err != nil || len(index.Manifests) != 1 || index.Manifests[0].ArtifactType != "test/sbom" {
		t.Errorf("filtered %s %v", body, err)
	}
}

func TestToken(t *testing.T) {
	r := New(t, WithToken("user", "pass"))
	r.PutImage("a", "1", []byte("x"))
	r.PutImage("b", "1", []byte("x"))
	resp, _, _ := ask(t, r, "GET", "/v2/a/manifests/1")
	if got := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != 401 || !strings.Contains(got, `realm="`+r.URL()+`/token"`) {
		t.Errorf("challenge %d %s", resp.StatusCode, got)
	}
	if resp, _, _ := ask(t, r, "GET", "/token?service=registrytest&scope=repository:a:pull"); resp.StatusCode != 401 {
		t.Errorf("token without a login: %d", resp.StatusCode)
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
	if status("a") != 200 || status("b") != 401 {
		t.Error("the token is not good for its repository and no other")
	}
	r.RevokeTokens()
	if status("a") != 401 {
		t.Error("a revoked token is good")
	}
}

func TestRedirect(t *testing.T) {
	r := New(t, WithBlobRedirectGetOnly())
	d := r.PutBlob("a", []byte("content"))
	resp, _, _ := ask(t, r, "GET", "/v2/a/blobs/"+string(d))
	location := resp.Header.Get("Location")
	if resp.StatusCode != 307 || !strings.Contains(location, r.StorageHost()) {
		t.Fatalf("%d to %s", resp.StatusCode, location)
	}
	if _, body, _ := ask(t, r, "GET", location, "Range", "bytes=3-"); string(body) != "tent" {
		t.Errorf("storage answered %q", body)
	}
	if resp, _, _ := ask(t, r, "HEAD", location); resp.StatusCode != 403 {
		t.Errorf("HEAD: %d", resp.StatusCode)
	}
	if got := r.Counts(); got.Storage != 2 || got.BlobGet != 1 || got.BlobBytes != 4 {
		t.Errorf("counts %+v", got)
	}
}

func TestFaults(t *testing.T) {
	r := New(t)
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	d := r.PutBlob("a", content)
	path := "/v2/a/blobs/" + string(d)

	r.CutBlobs(12_345, 2)
	for range 2 {
		if _, body, err := ask(t, r, "GET", path); err == nil || len(body) != 12_345 {
			t.Errorf("cut: %d bytes, %v", len(body), err)
		}
	}
	if _, body, err := ask(t, r, "GET", path); err != nil || len(body) != len(content) {
		t.Errorf("after the cuts: %d bytes, %v", len(body), err)
	}

	r.CorruptBlobs(1)
	if _, body, _ := ask(t, r, "GET", path); len(body) != len(content) || digest.FromBytes(body) == d {
		t.Error("not corrupted")
	}
	if !bytes.HasPrefix(content, []byte("0123")) {
		t.Error("the stored content was corrupted")
	}

	r.Fail(Failure{Op: OpBlob, Method: "GET", Status: 429, Header: http.Header{"Retry-After": {"7"}}, Times: 1})
	resp, _, _ := ask(t, r, "GET", path)
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "7" {
		t.Errorf("failure: %d", resp.StatusCode)
	}

	r.Throttle(1 << 20)
	start := time.Now()
	if _, body, err := ask(t, r, "GET", path); err != nil || digest.FromBytes(body) != d {
		t.Errorf("throttled: %v", err)
	}
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("100 kB at 1 MiB/s took %v", took)
	}
	r.Heal()

	r.SetFault(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(418); return true })
	if resp, _, _ := ask(t, r, "GET", path); resp.StatusCode != 418 {
		t.Errorf("hook: %d", resp.StatusCode)
	}
	r.Heal()
	if resp, _, _ := ask(t, r, "GET", path); resp.StatusCode != 200 {
		t.Errorf("healed: %d", resp.StatusCode)
	}
}

func TestRangeFaults(t *testing.T) {
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
				t.Errorf("fault %d: %q instead of %q, %v", test.fault, body, want, err)
			}
		}
		if _, body, err := ask(t, r, "GET", path); err != nil || string(body) != "content" {
			t.Errorf("fault %d: %q, %v", test.fault, body, err)
		}
	}
	r.Heal()
	if _, body, _ := ask(t, r, "GET", path, "Range", "bytes=2-4"); string(body) != "nte" {
		t.Errorf("healed: %q", body)
	}
	got := r.Ranges()
	if len(got) != 17 || got[0] != "bytes=2-4" || got[3] != "" {
		t.Errorf("ranges %q", got)
	}
	if r.Reset(); len(r.Ranges()) != 0 {
		t.Error("ranges are not forgotten")
	}
}

func TestStall(t *testing.T) {
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
		t.Errorf("%d bytes sent while stalled", sent)
	}
	release()
	release() // once more is no mistake
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != len(content)-1000 {
		t.Errorf("%d bytes after the stall, %v", len(rest), err)
	}
}
