package pullthrough

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// purge forgets what a repository is known to contain.
func (f *fixture) purge(r *Repository) {
	f.t.Helper()
	if _, err := f.config.Index.Purge(f.t.Context(), r.config.Scope+"/_", func(digest.Digest) {}); err != nil {
		f.t.Error(err)
	}
}

// TestPurgeDuringDownload checks that upstream is asked about a blob after a purge although a
// download of it has begun before: for a request that joins the download, and for one after
// its end. The same holds if another process has purged the repository and asks for the blob.
func TestPurgeDuringDownload(t *testing.T) {
	purges := map[string]func(*fixture, *Repository){
		"here":  func(f *fixture, r *Repository) { f.purge(r) },
		"noted": func(f *fixture, r *Repository) { f.config.Index.NotePurge(r.config.Scope, time.Now()) },
	}
	for name, purge := range purges {
		for _, joins := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				f := newFixture(t)
				layer := random(1, 50_000)
				d := f.up.PutBlob("team/app", layer)
				r := f.repository("red", "team/app")
				release := f.up.StallBlobs(1000)
				before, _, err := r.Blob(t.Context(), d)
				if err != nil {
					t.Fatal(err)
				}
				defer before.Close()
				purge(f, r)
				if joins {
					after, status, err := r.Blob(t.Context(), d)
					if err != nil || status != Joined {
						t.Fatalf("got status %d and the error %v, want to join the download", status, err)
					}
					defer after.Close()
					f.expectCounts("a request that joins", registrytest.Counts{BlobGet: 1, BlobHead: 1})
				}
				release()
				f.awaitFills()
				f.up.Reset()
				if joins {
					f.expectBlob(r, layer, Hit)
					f.expectCounts("a request after one that was confirmed", registrytest.Counts{})
				} else {
					f.expectBlob(r, layer, Miss)
					f.expectCounts("the first request after the purge", registrytest.Counts{BlobHead: 1})
				}
			})
		}
	}
}

// TestPurgeDuringManifest checks that the transfer of a manifest during a purge succeeds, and
// that upstream is asked about the manifest again after it.
func TestPurgeDuringManifest(t *testing.T) {
	f := newFixture(t)
	image := f.up.PutImage("team/app", "1", random(1, 100))
	r := f.repository("red", "team/app")
	f.up.SetFault(func(http.ResponseWriter, *http.Request) bool {
		f.purge(r)
		return false
	})
	m, err := r.ManifestByDigest(t.Context(), image.Manifest, true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.up.SetFault(nil)
	f.up.Reset()
	m, err = r.ManifestByDigest(t.Context(), image.Manifest, true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.expectCounts("after the purge", registrytest.Counts{ManifestHead: 1})
}

// TestPurgeDuringRefetch checks that a tag whose manifest is fetched by the tag during a purge
// is asked about again, also if the repository gets the manifest by its digest meanwhile.
func TestPurgeDuringRefetch(t *testing.T) {
	f := newFixture(t)
	image := f.up.PutImage("team/app", "1", random(1, 100))
	r := f.repository("red", "team/app")
	f.up.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.Method != http.MethodGet:
			return false
		case strings.HasSuffix(req.URL.Path, "/1"):
			f.purge(r)
			return false
		}
		w.WriteHeader(http.StatusNotFound)
		return true
	})
	m, err := r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.up.SetFault(nil)
	m, err = r.ManifestByDigest(t.Context(), image.Manifest, true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.up.Reset()
	m, err = r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.expectCounts("after the purge", registrytest.Counts{ManifestHead: 1})
}

// TestPurgeDuringList checks that an answer about a list is not remembered if the
// repository is purged while upstream is asked, be it a list or that there is none.
func TestPurgeDuringList(t *testing.T) {
	for name, status := range map[string]int{"a list": 0, "none": http.StatusNotFound} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.up.PutImage("team/app", "1", random(1, 100))
			r := f.repository("red", "team/app", func(c *Config) { c.Absences, c.AbsentFor = NewAbsences().Own(), time.Hour })
			f.up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
				f.purge(r)
				if status != 0 {
					w.WriteHeader(status)
				}
				return status != 0
			})
			_, _, err := r.Tags(t.Context(), nil)
			if (err != nil) != (status != 0) {
				t.Errorf("during the purge: got the error %v", err)
			}
			f.up.SetFault(nil)
			f.up.Reset()
			if _, origin, err := r.Tags(t.Context(), nil); err != nil || origin.Status != Miss {
				t.Errorf("after the purge: got status %d and the error %v, want a miss", origin.Status, err)
			}
			f.expectCounts("after the purge", registrytest.Counts{Tags: 1})
		})
	}
}

// TestPurgeDuringQuestion checks that a request after a purge does not wait for the answer to
// a question that was asked before it, and that such an answer is not recorded.
func TestPurgeDuringQuestion(t *testing.T) {
	f := newFixture(t)
	image := f.up.PutImage("team/app", "1", random(1, 100))
	r := f.repository("red", "team/app")
	asked, release := make(chan struct{}, 8), make(chan struct{})
	f.up.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodHead {
			asked <- struct{}{}
			<-release
		}
		return false
	})
	pulls := make(chan error, 2)
	pull := func() {
		m, err := r.ManifestByTag(context.WithoutCancel(t.Context()), "1", true)
		m.Content.Close()
		pulls <- err
	}
	go pull()
	<-asked
	f.purge(r)
	go pull()
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Error("the request after the purge has not asked upstream")
	}
	f.purge(r) // both have asked before this one
	close(release)
	for range 2 {
		if err := <-pulls; err != nil {
			t.Error(err)
		}
	}
	f.up.SetFault(nil)
	f.up.Reset()
	m, err := r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	if got := f.up.Counts(); got.ManifestHead != 1 {
		t.Errorf("after the last purge: got requests %+v, want a question about the tag", got)
	}
}
