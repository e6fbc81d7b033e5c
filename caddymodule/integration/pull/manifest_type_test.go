package pull

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/page"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestManifestThatIsNone checks that what cannot be served as a manifest gets an
// error, by tag and by digest, and that a schema 1 manifest gets a clear one.
func TestManifestThatIsNone(t *testing.T) {
	up := registrytest.New(t)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	for name, row := range map[string]struct {
		mediaType, content string
		status             int
		code, message      string
	}{
		"page":     {v1.MediaTypeImageManifest, "<html>", http.StatusBadGateway, "UNAVAILABLE", "invalid response"},
		"null":     {v1.MediaTypeImageIndex, "null", http.StatusBadGateway, "UNAVAILABLE", "invalid response"},
		"both":     {v1.MediaTypeImageIndex, `{"schemaVersion":2,"layers":[],"manifests":[]}`, http.StatusBadGateway, "UNAVAILABLE", "invalid response"},
		"schema-1": {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`, http.StatusNotFound, "MANIFEST_UNKNOWN", "schema 1"},
	} {
		d := up.PutManifest("team/app", row.mediaType, []byte(row.content), name)
		for _, reference := range []string{name, string(d)} {
			a := s.Get(sitetest.ManifestPath("acme", "team/app", reference), sitetest.As("alice")).Expect(t, row.status, row.code)
			if !strings.Contains(string(a.Data), row.message) {
				t.Errorf("%s: got %s, want %q in it", reference, a.Data, row.message)
			}
		}
	}
}

// TestManifestOfUnknownType checks that a manifest of a type that this proxy does not
// know is served byte for byte, with its type.
func TestManifestOfUnknownType(t *testing.T) {
	up := registrytest.New(t)
	const unknown = "application/vnd.example.thing.v1+json"
	content := []byte("{ \"things\": [1,\t2] }\n")
	d := up.PutManifest("team/app", unknown, content, "1")
	artifact := []byte(`{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","artifactType":"application/x","blobs":[]}`)
	up.PutManifest("team/app", "application/vnd.oci.artifact.manifest.v1+json", artifact, "2")
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	for range 2 {
		for _, reference := range []string{"1", string(d)} {
			path := sitetest.ManifestPath("acme", "team/app", reference)
			for _, accept := range []string{"*/*", unknown, v1.MediaTypeImageManifest} {
				s.Get(path, sitetest.As("alice"), sitetest.Header("Accept", accept)).Content(t, content).Has(t, "Content-Type", unknown)
				s.Head(path, sitetest.As("alice"), sitetest.Header("Accept", accept)).Expect(t, http.StatusOK, "").Has(t, "Content-Type", unknown)
			}
		}
		s.Get(sitetest.ManifestPath("acme", "team/app", "2"), sitetest.As("alice")).Content(t, artifact).Has(t, "Content-Type", "application/vnd.oci.artifact.manifest.v1+json")
	}
}

// TestManifestThatClientAccepts checks that a client that accepts one type of image
// gets it where the upstream has the tag as an index and as that.
func TestManifestThatClientAccepts(t *testing.T) {
	const docker = "application/vnd.docker.distribution.manifest.v2+json"
	up := registrytest.New(t)
	index := up.PutIndex("team/app", "1", up.PutImage("team/app", "", sitetest.Random(1, 100)))
	image := []byte(`{"schemaVersion":2,"mediaType":"` + docker + `","config":{},"layers":[]}`)
	up.Offer("team/app", "1", up.PutManifest("team/app", docker, image))
	s := sitetest.Start(t, sitetest.Users("alice"), "group acme {\n maintainers alice\n}\n", sitetest.Hub(up))
	path := sitetest.ManifestPath("acme", "team/app", "1")
	for range 2 {
		s.Get(path, sitetest.As("alice")).Content(t, up.RawManifest("team/app", index)).Has(t, "Content-Type", v1.MediaTypeImageIndex)
		s.Get(path, sitetest.As("alice"), sitetest.Header("Accept", docker)).Content(t, image).Has(t, "Content-Type", docker)
		s.Head(path, sitetest.As("alice"), sitetest.Header("Accept", docker+", "+v1.MediaTypeImageIndex)).Has(t, "Content-Type", v1.MediaTypeImageIndex)
	}
	var seen page.Group
	a := s.Get("/acme/dependency_proxy", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	if err := json.Unmarshal(a.Data, &seen); err != nil || len(seen.Images) != 1 || !strings.HasSuffix(seen.Images[0].Name, "team/app:1") {
		t.Errorf("got %s, %v, want one entry of the tag", a.Data, err)
	}
}
