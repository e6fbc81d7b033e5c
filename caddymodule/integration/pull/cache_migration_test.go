package pull

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// What records of the former version lack.
var (
	proof = regexp.MustCompile(`,"proof":1`)
	times = regexp.MustCompile(`,"checked":"[^"]*","since":"[^"]*"`)
)

// makeCacheOfFormerVersion turns the cache of a stopped site into one of the
// former version, which recorded no deliveries, and no times of tags.
func makeCacheOfFormerVersion(s *sitetest.Site) {
	s.T.Helper()
	for _, folder := range []string{"deliveries", "format"} {
		if err := os.RemoveAll(filepath.Join(s.Cache, folder)); err != nil {
			s.T.Fatal(err)
		}
	}
	for _, name := range s.Stored() {
		later := map[string]*regexp.Regexp{"links": proof, "refs": times}[strings.Split(name, "/")[0]]
		if later == nil {
			continue
		}
		name = filepath.Join(s.Cache, name)
		record, err := os.ReadFile(name)
		if err == nil && !later.Match(record) {
			s.T.Errorf("got the record %s, want one that matches %s", record, later)
		}
		if err == nil {
			err = os.WriteFile(name, later.ReplaceAll(record, nil), 0o600)
		}
		if err != nil {
			s.T.Fatal(err)
		}
	}
}

// TestCacheOfFormerVersion checks that of the links in a cache of the former
// version, which upstreams had only claimed, those of the first upstream are
// kept, and the others are confirmed by the next download.
func TestCacheOfFormerVersion(t *testing.T) {
	red, evil := registrytest.New(t), registrytest.New(t)
	image := red.PutImage("team/app", "1", sitetest.Random(1, 5000))
	own := evil.PutImage("x/y", "1", sitetest.Random(2, 5000))
	lines := []string{sitetest.Users("alice", "bob"), sitetest.Private("red", "alice"), sitetest.Private("blue", "bob"), sitetest.Hub(red), sitetest.UpstreamAt(sitetest.BlueUpstream, evil.URL())}
	s := sitetest.Start(t, lines...)
	sitetest.Pull(t, s, "red", "team/app", "1", sitetest.As("alice"))
	sitetest.Pull(t, s, "blue", sitetest.BlueUpstream+"/x/y", "1", sitetest.As("bob"))
	s.Stop()
	makeCacheOfFormerVersion(s)
	// Links as the false HEADs of an upstream would have left them.
	folders, err := filepath.Glob(filepath.Join(s.Cache, "links/blue/_/"+sitetest.BlueUpstream+"@*/x/y/_/sha256"))
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
	s.Load(lines...)
	stolen := func() {
		t.Helper()
		for _, path := range []string{sitetest.BlobPath("blue", sitetest.BlueUpstream+"/x/y", image.Layers[0]), sitetest.ManifestPath("blue", sitetest.BlueUpstream+"/x/y", string(image.Manifest))} {
			if a := s.Get(path, sitetest.As("bob")); a.StatusCode != http.StatusNotFound {
				t.Errorf("%s: got %d with %d bytes, want 404", path, a.StatusCode, len(a.Data))
			}
		}
	}
	stolen()
	sitetest.Eventually(t, "the log tells of the links", func() bool { return strings.Contains(s.Logs(), `"kept":3,"dropped":5`) })
	stolen()
	red.Reset()
	evil.Reset()
	sitetest.Pull(t, s, "red", "team/app", "1", sitetest.As("alice"))
	sitetest.ExpectRequests(t, red, "what was kept", registrytest.Counts{ManifestHead: 1})
	sitetest.Pull(t, s, "blue", sitetest.BlueUpstream+"/x/y", "1", sitetest.As("bob"))
	sitetest.ExpectRequests(t, evil, "what was dropped", registrytest.Counts{ManifestHead: 1, ManifestGet: 1, BlobGet: 2})
	s.Get(sitetest.BlobPath("blue", sitetest.BlueUpstream+"/x/y", own.Layers[0]), sitetest.As("bob")).Expect(t, http.StatusOK, "").Has(t, "Cache-Status", "dependency-proxy; hit")

	s.Restart(lines...)
	sitetest.Pull(t, s, "red", "team/app", "1", sitetest.As("alice"))
	sitetest.ExpectRequests(t, red, "a later start", registrytest.Counts{})
	if n := strings.Count(s.Logs(), `"kept":`); n != 1 {
		t.Errorf("got %d log lines about the links, want 1", n)
	}
}
