package pull

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestQuota checks that a group over its quota loses what it pulled least
// recently, and that another group with the same content does not.
func TestQuota(t *testing.T) {
	up := registrytest.New(t)
	var images []registrytest.Image
	names := []string{"a", "b", "c", "d"}
	for i, name := range names {
		images = append(images, up.PutImage("library/"+name, "1", sitetest.Random(byte(i), 100_000)))
	}
	large := up.PutBlob("library/a", sitetest.Random(9, 300_000))
	acme := "group acme {\n members alice\n quota 250kB\n}\n"
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), acme, sitetest.Private("acme/sub"), sitetest.Private("other", "bob"), sitetest.Hub(up))
	sitetest.Pull(t, s, "other", "a", "1", sitetest.As("bob"))
	for i, name := range names {
		sitetest.Pull(t, s, []string{"acme", "acme/sub"}[i%2], name, "1", sitetest.As("alice"))
		if i == 2 {
			// What is measured may be of the time before the last link was added.
			sitetest.Eventually(t, "the first image has gone from the group", func() bool {
				links := 0
				for _, name := range s.Stored() {
					if strings.HasPrefix(name, "links/acme/") {
						links++
					}
				}
				return links == 6
			})
		}
	}
	for _, d := range append(images[1].Layers, images[1].Manifest, images[1].Config) {
		sitetest.Eventually(t, "the second image is gone", func() bool { return !s.IsStored(d) })
	}
	for i, want := range []bool{true, false, true, true} {
		for _, d := range append(images[i].Layers, images[i].Manifest, images[i].Config) {
			if s.IsStored(d) != want {
				t.Errorf("%s of image %s: got stored %v, want %v", d, names[i], !want, want)
			}
		}
	}
	if !strings.Contains(s.Logs(), "group was over its quota") {
		t.Error("the log lacks that the group was over its quota")
	}
	up.Reset()
	sitetest.Pull(t, s, "other", "a", "1", sitetest.As("bob"))
	sitetest.ExpectRequests(t, up, "what another group has", registrytest.Counts{})
	s.Get(sitetest.BlobPath("acme", "a", large), sitetest.As("alice")).Content(t, sitetest.Random(9, 300_000))
	s.Get(sitetest.BlobPath("acme", "a", large), sitetest.As("alice")).Content(t, sitetest.Random(9, 300_000)).Has(t, "Cache-Status", "dependency-proxy; fwd=miss")
	sitetest.Pull(t, s, "acme", "a", "1", sitetest.As("alice")) // what was taken from it can be pulled again
}

// TestHeadCountsAsUse checks that a HEAD of a tag, which is how Docker pulls an
// image that it has, marks all parts of the image as used.
func TestHeadCountsAsUse(t *testing.T) {
	up := registrytest.New(t)
	one, two := up.PutImage("library/alpine", "", sitetest.Random(1, 1000)), up.PutImage("library/alpine", "", sitetest.Random(2, 1000))
	index := up.PutIndex("library/alpine", "3.20", one, two)
	s := sitetest.Start(t, sitetest.Users("alice"), "group acme {\n members alice\n quota 1GiB\n}\n", sitetest.Hub(up))
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	sitetest.Pull(t, s, "acme", "alpine", string(one.Manifest), sitetest.As("alice"))
	s.Stop()
	var files []string
	for _, name := range s.Stored() {
		if strings.HasPrefix(name, "blobs/") || strings.HasPrefix(name, "links/") {
			files = append(files, filepath.Join(s.Cache, name))
		}
	}
	if len(files) != 2*4 {
		t.Fatalf("got %d files, want 8", len(files))
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		old := info.ModTime().Add(-1000 * time.Hour) // whole hours keep the marker in the time
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	s.Load(sitetest.Users("alice"), "group acme {\n members alice\n quota 1GiB\n}\n", sitetest.Hub(up))
	s.Head(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Docker-Content-Digest", string(index))
	s.Stop()
	for _, name := range files {
		if info, err := os.Stat(name); err != nil || time.Since(info.ModTime()) > time.Hour {
			t.Errorf("%s: got a use %v ago, error %v; want one within the hour", name, time.Since(info.ModTime()), err)
		}
	}
}

// TestClaimDoesNotCountAsUse checks that a tag of one upstream that names content of
// another one does not keep that content from being evicted, and that a pull of
// the content does.
func TestClaimDoesNotCountAsUse(t *testing.T) {
	red, evil := registrytest.New(t), registrytest.New(t)
	lines := []string{sitetest.Users("alice", "bob"), sitetest.Private("red", "alice"), sitetest.Private("blue", "bob"), sitetest.Hub(red), sitetest.UpstreamAt(sitetest.BlueUpstream, evil.URL())}
	s := sitetest.Start(t, lines...)
	image := red.PutImage("team/secret", "1", sitetest.Random(1, 5000))
	sitetest.Pull(t, s, "red", "team/secret", "1", sitetest.As("alice"))
	evil.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Docker-Content-Digest", string(image.Manifest))
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Content-Length", strconv.Itoa(len(red.RawManifest("team/secret", image.Manifest))))
		return true
	})
	idle := func(path, name string) bool {
		t.Helper()
		s.Stop()
		then := make(map[string]time.Time)
		for _, d := range append(image.Layers, image.Manifest) {
			info, err := os.Stat(s.BlobFile(d))
			if err != nil {
				t.Fatal(err)
			}
			then[s.BlobFile(d)] = info.ModTime().Add(-48 * time.Hour)
			if err := os.Chtimes(s.BlobFile(d), time.Time{}, then[s.BlobFile(d)]); err != nil {
				t.Fatal(err)
			}
		}
		s.Load(lines...)
		s.Head(path, sitetest.As(name)).Expect(t, http.StatusOK, "")
		s.Stop()
		for name, at := range then {
			if info, err := os.Stat(name); err != nil || !info.ModTime().Equal(at) {
				return false
			}
		}
		return true
	}
	for _, reference := range []string{"1", string(image.Manifest)} {
		if !idle(sitetest.ManifestPath("blue", sitetest.BlueUpstream+"/x/y", reference), "bob") {
			t.Errorf("%s: got a use by the claim of another upstream, want none", reference)
		}
		if idle(sitetest.ManifestPath("red", "team/secret", reference), "alice") {
			t.Errorf("%s: got no use by a request, want one", reference)
		}
	}
}
