package pullthrough

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// warm warms a tag and returns the last progress.
func (f *fixture) warm(r *Repository, platforms ...string) (Progress, error) {
	f.t.Helper()
	var wanted []Platform
	for _, text := range platforms {
		p, err := ParsePlatform(text)
		if err != nil {
			f.t.Fatal(err)
		}
		wanted = append(wanted, p)
	}
	var last Progress
	err := r.Warm(f.t.Context(), "1", "", wanted, func(p Progress) { last = p })
	return last, err
}

func TestRepositoryWarm(t *testing.T) {
	f := newFixture(t)
	shared := random(9, 5000)
	amd := f.up.PutImage("team/app", "", random(1, 1000), shared)
	arm := f.up.PutImage("team/app", "", random(2, 1000), shared)
	f.up.PutIndex("team/app", "1", amd, arm)
	r := f.repository("red", "team/app")
	p, err := f.warm(r, "linux/amd64")
	if err != nil || p.Manifests != 2 || p.Blobs != 3 || p.Bytes != p.Total || p.Fetched != p.Total || p.Total < 6000 {
		t.Errorf("one platform: got %+v, error %v; want 2 manifests and 3 blobs, all fetched", p, err)
	}
	if counts := f.up.Counts(); counts.ManifestGet != 2 || counts.BlobGet != 3 {
		t.Errorf("one platform: got requests %+v, want 2 manifests and 3 blobs", counts)
	}
	f.up.Reset()
	p, err = f.warm(r)
	if err != nil || p.Manifests != 3 || p.Blobs != 5 || p.Bytes != p.Total || p.Fetched >= p.Total-5000 {
		t.Errorf("all platforms: got %+v, error %v; want 3 manifests and 5 blobs, the shared one from the cache", p, err)
	}
	if counts := f.up.Counts(); counts.ManifestGet != 1 || counts.BlobGet != 2 {
		t.Errorf("all platforms: got requests %+v, want what the first platform has not", counts)
	}
	f.up.Reset()
	if p, err = f.warm(r); err != nil || p.Blobs != 5 || p.Fetched != 0 {
		t.Errorf("again: got %+v, error %v; want everything from the cache", p, err)
	}
	f.expectCounts("again", registrytest.Counts{})
	if _, err = f.warm(r, "linux/s390x", "windows/amd64"); err == nil || err.Error() != "the image has no linux/s390x or windows/amd64" {
		t.Errorf("other platforms: got error %v, want one that names them", err)
	}
	f.expectBlob(r, shared, Hit)
}

// A part that fails does not keep the others from being pulled.
func TestRepositoryWarmFailures(t *testing.T) {
	f := newFixture(t)
	amd, arm := f.up.PutImage("team/app", "", random(1, 1000)), f.up.PutImage("team/app", "", random(2, 1000))
	f.up.PutIndex("team/app", "1", amd, arm)
	f.up.DeleteManifest("team/app", amd.Manifest)
	r := f.repository("red", "team/app")
	p, err := f.warm(r)
	if err == nil || p.Manifests != 2 || p.Blobs != 2 || p.Bytes != p.Total {
		t.Errorf("a manifest is missing: got %+v, error %v; want an error, and the other image", p, err)
	}
	f.up.Fail(registrytest.Failure{Op: registrytest.OpBlob, Method: http.MethodGet, Status: http.StatusNotFound})
	f.up.PutImage("team/app", "1", random(3, 1000))
	if p, err = f.warm(f.repository("red", "team/app", freshFor(0))); err == nil || !strings.Contains(err.Error(), "blob sha256:") || p.Blobs != 0 {
		t.Errorf("blobs are missing: got %+v, error %v; want an error that names them", p, err)
	}
	if err := f.repository("red", "team/none").Warm(t.Context(), "", digest.FromString("none"), nil, func(Progress) {}); err == nil {
		t.Error("an unknown digest: got no error, want one")
	}
}

// Content that comes, but is not stored, is a failure.
func TestRepositoryWarmBeyondLimit(t *testing.T) {
	f := newFixture(t)
	f.up.PutImage("team/app", "1", random(1, 100_000))
	r := f.repository("red", "team/app", func(c *Config) {
		c.Quotas = blobcache.NewQuotas(c.Cache, c.Index, map[string]int64{"red": 50_000})
	})
	if _, err := f.warm(r); err == nil || !strings.Contains(err.Error(), "1 of 2 blobs are not stored") {
		t.Errorf("got error %v, want one about the layer", err)
	}
}

func TestParsePlatform(t *testing.T) {
	for _, text := range []string{"linux/amd64", "linux/arm/v7"} {
		if p, err := ParsePlatform(text); err != nil || p.String() != text {
			t.Errorf("%s: got %s, error %v", text, p, err)
		}
	}
	for _, text := range []string{"", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux//v7"} {
		if _, err := ParsePlatform(text); err == nil {
			t.Errorf("%q: got no error, want one", text)
		}
	}
	p, _ := ParsePlatform("linux/arm")
	q, _ := ParsePlatform("linux/arm/v7")
	if !p.includes(q) || q.includes(p) || !q.includes(q) {
		t.Error("a platform without a variant must include all variants, and no other way")
	}
}
