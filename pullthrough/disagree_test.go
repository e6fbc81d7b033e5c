package pullthrough

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// disagree makes HEAD name a manifest for the tag 1 that no GET finds, as registries do
// whose replicas are not up to date.
func (f *fixture) disagree() {
	f.up.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		named := req.Method == http.MethodHead && strings.HasSuffix(req.URL.Path, "/manifests/1")
		if named {
			w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
			w.Header().Set("Content-Length", "123")
			w.Header().Set("Docker-Content-Digest", digest.FromString("not there").String())
			w.Header().Set("RateLimit-Limit", "100;w=21600")
			w.Header().Set("RateLimit-Remaining", "10;w=21600")
		}
		return named
	})
}

// TestScarceBudgetWhereHeadAndGetDisagree checks that a manifest that HEAD names and no
// GET finds costs one pull, and not one for each time that the tag is checked.
func TestScarceBudgetWhereHeadAndGetDisagree(t *testing.T) {
	f := newFixture(t, registrytest.WithPullLimit(100))
	image := f.up.PutImage("team/app", "1", random(1, 100))
	r := f.repository("red", "team/app", freshFor(0))
	m, err := r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.up.ResetPulls(90)
	f.disagree()
	if _, err := f.config.Registry.HeadTag(t.Context(), "team/app", "1", 0); err != nil {
		t.Fatal(err) // which tells the budget
	}
	f.up.Reset()
	for _, r := range []*Repository{r, r, r, f.repository("red", "team/app", forced), r} {
		m, err := r.ManifestByTag(t.Context(), "1", true)
		if f.expectManifest(m, err, "team/app", image.Manifest, Stale); m.Reason != RateLimited {
			t.Errorf("got reason %s, want %s", m.Reason, RateLimited)
		}
	}
	f.expectCounts("five pulls", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
}
