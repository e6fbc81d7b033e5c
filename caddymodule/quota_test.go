package caddymodule

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// blobFile is where content is.
func (s *site) blobFile(d digest.Digest) string {
	return filepath.Join(s.cache, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

func (s *site) isStored(d digest.Digest) bool {
	_, err := os.Stat(s.blobFile(d))
	return err == nil
}

// totals are what groups have, as last measured.
func totals() (totals map[string]blobcache.Total) {
	for _, q := range quotas.All() {
		totals = q.quotas.Totals()
	}
	return totals
}

// TestQuota: a group that has too much loses what it pulled least recently, and
// another group that has the same does not.
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
				acme := totals()["acme"]
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
				t.Errorf("%s of image %s is stored: %v", d, names[i], !want)
			}
		}
	}
	if !strings.Contains(s.logs(), "group was over its quota") {
		t.Error("not a word in the log")
	}
	up.Reset()
	pull(t, s, "other", "a", "1", as("bob"))
	costs(t, up, "what another group has", registrytest.Counts{})
	s.get(blobPath("acme", "a", large), as("alice")).content(t, random(9, 300_000))
	s.get(blobPath("acme", "a", large), as("alice")).content(t, random(9, 300_000)).has(t, "Cache-Status", "dependency-proxy; fwd=miss")
	pull(t, s, "acme", "a", "1", as("alice")) // what was taken from it can be pulled again
}

// TestHeadIsAUse: Docker pulls an image that it has by a HEAD of its tag, which
// keeps all that the image is made of from growing old.
func TestHeadIsAUse(t *testing.T) {
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
		t.Fatalf("%d files", len(files))
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
			t.Errorf("%s was used %v ago, %v", name, time.Since(info.ModTime()), err)
		}
	}
}

// TestTruncatedFile: a file that the disk has cut is not served to a group that is
// told its size only while it is asked for.
func TestTruncatedFile(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 100_000)
	d := up.PutBlob("library/alpine", layer)
	s := start(t, users("alice"), private("red", "alice"), private("blue", "alice"), hub(up))
	s.get(blobPath("red", "alpine", d), as("alice")).content(t, layer)
	for _, group := range []string{"blue", "red"} {
		s.awaitStored(string(d))
		if err := os.Truncate(s.blobFile(d), 50_000); err != nil {
			t.Fatal(err)
		}
		s.get(blobPath(group, "alpine", d), as("alice")).content(t, layer).has(t, "Cache-Status", "dependency-proxy; fwd=miss")
	}
	if !strings.Contains(s.logs(), "was damaged and is dropped") {
		t.Error("not a word in the log")
	}
}

// TestWrongSize: a HEAD that contradicts the known size of a blob confirms nothing.
// A GET decides: if it is right the blob is served from what is here, else refused.
func TestWrongSize(t *testing.T) {
	for name, get := range map[string]bool{"HEAD lies": false, "both lie": true} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t)
			layer := random(1, 100_000)
			d := up.PutBlob("library/alpine", layer)
			s := start(t, users("alice"), private("acme", "alice"), private("blue", "alice"), hub(up))
			s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer)
			s.awaitStored(string(d))
			up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodHead && !get {
					return false
				}
				w.Header().Set("Content-Length", "99999")
				w.WriteHeader(http.StatusOK)
				if r.Method != http.MethodHead {
					_, _ = w.Write(layer[:99_999])
				}
				return true
			})
			up.Reset()
			path := blobPath("blue", "alpine", d)
			if get {
				s.get(path, as("alice")).expect(t, http.StatusBadGateway, "UNAVAILABLE")
				s.head(path, as("alice")).expect(t, http.StatusBadGateway, "")
				s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer).has(t, "Cache-Status", "dependency-proxy; hit")
				return
			}
			s.get(path, as("alice")).content(t, layer).has(t, "Cache-Status", "dependency-proxy; fwd=miss")
			costs(t, up, "a lying HEAD", registrytest.Counts{BlobHead: 1, BlobGet: 1})
			links, err := filepath.Glob(filepath.Join(s.cache, "links/blue/_/*/library/alpine/_/sha256", d.Encoded()))
			if err != nil || len(links) != 1 {
				t.Fatalf("links: %v, %v", links, err)
			}
			if got, err := os.ReadFile(links[0]); err != nil || string(got) != `{"size":100000,"proof":1}` {
				t.Errorf("the link is %s, %v", got, err)
			}
		})
	}
}
