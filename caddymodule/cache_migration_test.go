package caddymodule

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// What records of the former version lack.
var (
	proof = regexp.MustCompile(`,"proof":1`)
	times = regexp.MustCompile(`,"checked":"[^"]*","since":"[^"]*"`)
)

// makeCacheOfFormerVersion turns the cache of a stopped site into one of the
// former version, which recorded no deliveries, and no times of tags.
func (s *site) makeCacheOfFormerVersion() {
	s.t.Helper()
	for _, folder := range []string{"deliveries", "format"} {
		if err := os.RemoveAll(filepath.Join(s.cache, folder)); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, name := range s.stored() {
		later := map[string]*regexp.Regexp{"links": proof, "refs": times}[strings.Split(name, "/")[0]]
		if later == nil {
			continue
		}
		name = filepath.Join(s.cache, name)
		record, err := os.ReadFile(name)
		if err == nil && !later.Match(record) {
			s.t.Errorf("got the record %s, want one that matches %s", record, later)
		}
		if err == nil {
			err = os.WriteFile(name, later.ReplaceAll(record, nil), 0o600)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestCacheOfFormerVersion checks that of the links in a cache of the former
// version, which upstreams had only claimed, those of the first upstream are
// kept, and the others are confirmed by the next download.
func TestCacheOfFormerVersion(t *testing.T) {
	red, evil := registrytest.New(t), registrytest.New(t)
	image := red.PutImage("team/app", "1", random(1, 5000))
	own := evil.PutImage("x/y", "1", random(2, 5000))
	lines := []string{users("alice", "bob"), private("red", "alice"), private("blue", "bob"), hub(red), upstreamAt(blueUpstream, evil.URL())}
	s := start(t, lines...)
	pull(t, s, "red", "team/app", "1", as("alice"))
	pull(t, s, "blue", blueUpstream+"/x/y", "1", as("bob"))
	s.stop()
	s.makeCacheOfFormerVersion()
	// Links as the false HEADs of an upstream would have left them.
	folders, err := filepath.Glob(filepath.Join(s.cache, "links/blue/_/"+blueUpstream+"@*/x/y/_/sha256"))
	if err != nil || len(folders) != 1 {
		t.Fatalf("got the folders %v, error %v; want one", folders, err)
	}
	for d, link := range map[string]string{
		image.Layers[0].Encoded(): `{"size":5000}`,
		image.Manifest.Encoded():  `{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":777}`,
	} {
		if err := os.WriteFile(filepath.Join(folders[0], d), []byte(link), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.load(lines...)
	stolen := func() {
		t.Helper()
		for _, path := range []string{blobPath("blue", blueUpstream+"/x/y", image.Layers[0]), manifestPath("blue", blueUpstream+"/x/y", string(image.Manifest))} {
			if a := s.get(path, as("bob")); a.StatusCode != http.StatusNotFound {
				t.Errorf("%s: got %d with %d bytes, want 404", path, a.StatusCode, len(a.body))
			}
		}
	}
	stolen()
	eventually(t, "the log tells of the links", func() bool { return strings.Contains(s.logs(), `"kept":3,"dropped":5`) })
	stolen()
	red.Reset()
	evil.Reset()
	pull(t, s, "red", "team/app", "1", as("alice"))
	expectRequests(t, red, "what was kept", registrytest.Counts{ManifestHead: 1})
	pull(t, s, "blue", blueUpstream+"/x/y", "1", as("bob"))
	expectRequests(t, evil, "what was dropped", registrytest.Counts{ManifestHead: 1, ManifestGet: 1, BlobGet: 2})
	s.get(blobPath("blue", blueUpstream+"/x/y", own.Layers[0]), as("bob")).expect(t, http.StatusOK, "").has(t, "Cache-Status", "dependency-proxy; hit")

	s.restart(lines...)
	pull(t, s, "red", "team/app", "1", as("alice"))
	expectRequests(t, red, "a later start", registrytest.Counts{})
	if n := strings.Count(s.logs(), `"kept":`); n != 1 {
		t.Errorf("got %d log lines about the links, want 1", n)
	}
}
