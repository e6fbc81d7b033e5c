package caddymodule

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/page"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestManifestThatIsNone checks that what cannot be served as a manifest gets an
// error, by tag and by digest, and that a schema 1 manifest gets a clear one.
func TestManifestThatIsNone(t *testing.T) {
	up := registrytest.New(t)
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
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
			a := s.get(manifestPath("acme", "team/app", reference), as("alice")).expect(t, row.status, row.code)
			if !strings.Contains(string(a.body), row.message) {
				t.Errorf("%s: got %s, want %q in it", reference, a.body, row.message)
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
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	for range 2 {
		for _, reference := range []string{"1", string(d)} {
			path := manifestPath("acme", "team/app", reference)
			for _, accept := range []string{"*/*", unknown, v1.MediaTypeImageManifest} {
				s.get(path, as("alice"), header("Accept", accept)).content(t, content).has(t, "Content-Type", unknown)
				s.head(path, as("alice"), header("Accept", accept)).expect(t, http.StatusOK, "").has(t, "Content-Type", unknown)
			}
		}
		s.get(manifestPath("acme", "team/app", "2"), as("alice")).content(t, artifact).has(t, "Content-Type", "application/vnd.oci.artifact.manifest.v1+json")
	}
}

// TestManifestThatClientAccepts checks that a client that accepts one type of image
// gets it where the upstream has the tag as an index and as that.
func TestManifestThatClientAccepts(t *testing.T) {
	const docker = "application/vnd.docker.distribution.manifest.v2+json"
	up := registrytest.New(t)
	index := up.PutIndex("team/app", "1", up.PutImage("team/app", "", random(1, 100)))
	image := []byte(`{"schemaVersion":2,"mediaType":"` + docker + `","config":{},"layers":[]}`)
	up.Offer("team/app", "1", up.PutManifest("team/app", docker, image))
	s := start(t, users("alice"), "group acme {\n maintainers alice\n}\n", hub(up))
	path := manifestPath("acme", "team/app", "1")
	for range 2 {
		s.get(path, as("alice")).content(t, up.RawManifest("team/app", index)).has(t, "Content-Type", v1.MediaTypeImageIndex)
		s.get(path, as("alice"), header("Accept", docker)).content(t, image).has(t, "Content-Type", docker)
		s.head(path, as("alice"), header("Accept", docker+", "+v1.MediaTypeImageIndex)).has(t, "Content-Type", v1.MediaTypeImageIndex)
	}
	var seen page.Group
	a := s.get("/acme/dependency_proxy", as("alice")).expect(t, http.StatusOK, "")
	if err := json.Unmarshal(a.body, &seen); err != nil || len(seen.Images) != 1 || !strings.HasSuffix(seen.Images[0].Name, "team/app:1") {
		t.Errorf("got %s, %v, want one entry of the tag", a.body, err)
	}
}
