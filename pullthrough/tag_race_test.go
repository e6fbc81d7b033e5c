package pullthrough

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// pushBeforeGet makes upstream delete the manifest old, and tag another one, just
// before it answers the first GET of a manifest.
func pushBeforeGet(f *fixture, repo, tag string, old digest.Digest) {
	pushed := false
	f.up.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/manifests/") && !pushed {
			pushed = true
			f.up.PutImage(repo, tag, random(9, 100))
			f.up.DeleteManifest(repo, old)
		}
		return false
	})
}

// A tag that is pushed again between the HEAD and the GET of a pull is asked for
// again, in the same request.
func TestRepositoryTagIsPushedDuringPull(t *testing.T) {
	f := newFixture(t)
	old := f.up.PutImage("team/app", "1", random(1, 100)).Manifest
	next := f.up.PutImage("team/app", "", random(9, 100)).Manifest
	pushBeforeGet(f, "team/app", "1", old)
	r := f.repository("red", "team/app")
	m, err := r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", next, Miss)
	f.expectCounts("the pull", registrytest.Counts{ManifestHead: 1, ManifestGet: 2})
	for _, withContent := range []bool{true, false} {
		m, err = r.ManifestByTag(t.Context(), "1", withContent)
		f.expectManifest(m, err, "team/app", next, Hit)
	}
	f.expectCounts("the next pulls", registrytest.Counts{})
}

// The same if an earlier image of the tag is known.
func TestRepositoryTagIsPushedDuringRevalidation(t *testing.T) {
	f := newFixture(t)
	first := f.up.PutImage("team/app", "1", random(0, 100)).Manifest
	r := f.repository("red", "team/app", freshFor(0))
	m, err := r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", first, Miss)
	old := f.up.PutImage("team/app", "1", random(1, 100)).Manifest
	next := f.up.PutImage("team/app", "", random(9, 100)).Manifest
	pushBeforeGet(f, "team/app", "1", old)
	f.up.Reset()
	m, err = r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", next, Revalidated)
	f.expectCounts("the pull", registrytest.Counts{ManifestHead: 1, ManifestGet: 2})
}

// What HEAD says about a tag is not believed before the content is here: a client
// that asks by HEAD, and then for the digest, must not get the digest of a deleted
// manifest for as long as the tag would be fresh.
func TestRepositoryTagIsBelievedOnceContentIsHere(t *testing.T) {
	f := newFixture(t)
	old := f.up.PutImage("team/app", "1", random(1, 100)).Manifest
	r := f.repository("red", "team/app")
	m, err := r.ManifestByTag(t.Context(), "1", false)
	f.expectManifest(m, err, "team/app", old, Miss)
	next := f.up.PutImage("team/app", "1", random(9, 100)).Manifest
	f.up.DeleteManifest("team/app", old)
	_, err = r.ManifestByDigest(t.Context(), old, true)
	expectKind(t, err, upstream.ManifestUnknown)
	f.up.Reset()
	m, err = r.ManifestByTag(t.Context(), "1", false)
	f.expectManifest(m, err, "team/app", next, Miss)
	m, err = r.ManifestByDigest(t.Context(), next, true)
	f.expectManifest(m, err, "team/app", next, Miss)
	m, err = r.ManifestByTag(t.Context(), "1", false)
	f.expectManifest(m, err, "team/app", next, Hit)
	f.expectCounts("the pull", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
}

// An upstream whose HEAD names a tag that GET does not find contradicts itself. A
// tag that has been deleted is unknown.
func TestRepositoryTagOfContradictoryUpstream(t *testing.T) {
	f := newFixture(t)
	image := f.up.PutImage("team/app", "1", random(1, 100))
	missing := registrytest.Failure{Op: registrytest.OpManifest, Method: http.MethodGet, Status: http.StatusNotFound}
	f.up.Fail(missing)
	r := f.repository("red", "team/app")
	for range 2 {
		_, err := r.ManifestByTag(t.Context(), "1", true)
		expectKind(t, err, upstream.Invalid)
		f.expectCounts("a contradiction", registrytest.Counts{ManifestHead: 2, ManifestGet: 2})
	}
	f.up.Heal()
	f.up.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodGet {
			f.up.DeleteManifest("team/app", image.Manifest)
		}
		return false
	})
	_, err := r.ManifestByTag(t.Context(), "1", true)
	expectKind(t, err, upstream.ManifestUnknown)
}

// An upstream that serves manifests by tag only can be pulled from by tag, and then
// by digest, with and without HEAD.
func TestRepositoryTagOfUpstreamWithoutDigests(t *testing.T) {
	for _, status := range []int{400, 403, 404, 405, 406, 500} {
		for counts, options := range map[registrytest.Counts][]registrytest.Option{
			{ManifestHead: 1, ManifestGet: 2}: nil,
			{ManifestHead: 1, ManifestGet: 1}: {registrytest.WithoutHead()},
		} {
			f := newFixture(t, options...)
			image := f.up.PutImage("team/app", "1", random(1, 100))
			f.up.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
				if strings.Contains(req.URL.Path, "/manifests/sha256:") {
					w.WriteHeader(status)
					return true
				}
				return false
			})
			r := f.repository("red", "team/app")
			m, err := r.ManifestByTag(t.Context(), "1", true)
			f.expectManifest(m, err, "team/app", image.Manifest, Miss)
			m, err = r.ManifestByDigest(t.Context(), image.Manifest, true)
			f.expectManifest(m, err, "team/app", image.Manifest, Hit)
			f.expectCounts("the pull", counts)
		}
	}
}
