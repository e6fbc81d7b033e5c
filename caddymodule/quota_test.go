package caddymodule

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestQuota checks that a group over its quota loses what it pulled least
// recently, and that another group with the same content does not.
func TestQuota(t *testing.T) {
	up := registrytest.New(t)
	var images []registrytest.Image
	names := []string{"a", "b", "c", "d"}
	for i, name := range names {
		images = append(images, up.PutImage("library/"+name, "1", random(byte(i), 100_000)))
	}
	large := up.PutBlob("library/a", random(9, 300_000))
	acme := "group acme {\n members alice\n quota 250kB\n}\n"
	s := start(t, users("alice", "bob"), acme, private("acme/sub"), private("other", "bob"), hub(up))
	pull(t, s, "other", "a", "1", as("bob"))
	for i, name := range names {
		pull(t, s, []string{"acme", "acme/sub"}[i%2], name, "1", as("alice"))
		if i == 2 {
			eventually(t, "the first image has gone from the group", func() bool {
				acme := s.groupTotals()["acme"]
				return acme.Blobs == 6 && acme.Bytes < 250_000
			})
		}
	}
	for _, d := range append(images[1].Layers, images[1].Manifest, images[1].Config) {
		eventually(t, "the second image is gone", func() bool { return !s.isStored(d) })
	}
	for i, want := range []bool{true, false, true, true} {
		for _, d := range append(images[i].Layers, images[i].Manifest, images[i].Config) {
			if s.isStored(d) != want {
				t.Errorf("%s of image %s: got stored %v, want %v", d, names[i], !want, want)
			}
		}
	}
	if !strings.Contains(s.logs(), "group was over its quota") {
		t.Error("the log lacks that the group was over its quota")
	}
	up.Reset()
	pull(t, s, "other", "a", "1", as("bob"))
	expectRequests(t, up, "what another group has", registrytest.Counts{})
	s.get(blobPath("acme", "a", large), as("alice")).content(t, random(9, 300_000))
	s.get(blobPath("acme", "a", large), as("alice")).content(t, random(9, 300_000)).has(t, "Cache-Status", "dependency-proxy; fwd=miss")
	pull(t, s, "acme", "a", "1", as("alice")) // what was taken from it can be pulled again
}

// TestHeadCountsAsUse checks that a HEAD of a tag, which is how Docker pulls an
// image that it has, marks all parts of the image as used.
func TestHeadCountsAsUse(t *testing.T) {
	up := registrytest.New(t)
	one, two := up.PutImage("library/alpine", "", random(1, 1000)), up.PutImage("library/alpine", "", random(2, 1000))
	index := up.PutIndex("library/alpine", "3.20", one, two)
	s := start(t, users("alice"), "group acme {\n members alice\n quota 1GiB\n}\n", hub(up))
	s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "")
	pull(t, s, "acme", "alpine", string(one.Manifest), as("alice"))
	s.stop()
	var files []string
	for _, name := range s.stored() {
		if strings.HasPrefix(name, "blobs/") || strings.HasPrefix(name, "links/") {
			files = append(files, filepath.Join(s.cache, name))
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
	s.load(users("alice"), "group acme {\n members alice\n quota 1GiB\n}\n", hub(up))
	s.head(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "").has(t, "Docker-Content-Digest", string(index))
	s.stop()
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
	lines := []string{users("alice", "bob"), private("red", "alice"), private("blue", "bob"), hub(red), upstreamAt(blueUpstream, evil.URL())}
	s := start(t, lines...)
	image := red.PutImage("team/secret", "1", random(1, 5000))
	pull(t, s, "red", "team/secret", "1", as("alice"))
	evil.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Docker-Content-Digest", string(image.Manifest))
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Content-Length", strconv.Itoa(len(red.RawManifest("team/secret", image.Manifest))))
		return true
	})
	idle := func(path, name string) bool {
		t.Helper()
		s.stop()
		then := make(map[string]time.Time)
		for _, d := range append(image.Layers, image.Manifest) {
			info, err := os.Stat(s.blobFile(d))
			if err != nil {
				t.Fatal(err)
			}
			then[s.blobFile(d)] = info.ModTime().Add(-48 * time.Hour)
			if err := os.Chtimes(s.blobFile(d), time.Time{}, then[s.blobFile(d)]); err != nil {
				t.Fatal(err)
			}
		}
		s.load(lines...)
		s.head(path, as(name)).expect(t, http.StatusOK, "")
		s.stop()
		for name, at := range then {
			if info, err := os.Stat(name); err != nil || !info.ModTime().Equal(at) {
				return false
			}
		}
		return true
	}
	for _, reference := range []string{"1", string(image.Manifest)} {
		if !idle(manifestPath("blue", blueUpstream+"/x/y", reference), "bob") {
			t.Errorf("%s: got a use by the claim of another upstream, want none", reference)
		}
		if idle(manifestPath("red", "team/secret", reference), "alice") {
			t.Errorf("%s: got no use by a request, want one", reference)
		}
	}
}
