package pull

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestPullFromUpstreamThatRejectsHead checks that an upstream that rejects HEAD
// for content that it has does not fail a pull, of the first repository or of
// the second.
func TestPullFromUpstreamThatRejectsHead(t *testing.T) {
	for _, status := range []int{400, 403, 404, 405, 406, 500} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			up := registrytest.New(t)
			var image registrytest.Image
			for _, repo := range []string{"team/app", "team/copy"} {
				image = up.PutImage(repo, "1", sitetest.Random(1, 5000))
			}
			up.Fail(registrytest.Failure{Method: http.MethodHead, Status: status})
			s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
			// After an absence, a HEAD that is always wrong must not be trusted.
			s.Get(sitetest.ManifestPath("acme", "team/app", "none"), sitetest.As("alice")).Expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
			for _, repo := range []string{"team/app", "team/copy"} {
				sitetest.Pull(t, s, "acme", repo, "1", sitetest.As("alice"))
				s.Get(sitetest.ManifestPath("acme", repo, string(image.Manifest)), sitetest.As("alice")).Expect(t, http.StatusOK, "")
				s.Head(sitetest.BlobPath("acme", repo, image.Layers[0]), sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Content-Length", "5000")
			}
			if counts := up.Counts(); counts.BlobGet != 4 || counts.ManifestGet != 3 {
				t.Errorf("got requests %+v, want 4 GETs of blobs, two of them for their size, and 3 of manifests", counts)
			}
		})
	}
}

// TestMissingTagCost checks that a tag that does not exist costs one GET, which
// counts as a pull, and that HEAD is trusted from then on, also about other
// tags.
func TestMissingTagCost(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("team/app", "1", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "absent_for off"))
	missing := func(tag string) {
		t.Helper()
		s.Get(sitetest.ManifestPath("acme", "team/app", tag), sitetest.As("alice")).Expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	}
	missing("none")
	sitetest.ExpectRequests(t, up, "a missing tag", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
	missing("none")
	sitetest.ExpectRequests(t, up, "the same again", registrytest.Counts{ManifestHead: 1})
	sitetest.Pull(t, s, "acme", "team/app", "1", sitetest.As("alice"))
	up.Reset()
	missing("other")
	sitetest.ExpectRequests(t, up, "another one", registrytest.Counts{ManifestHead: 1})
}

// TestPullFromWebPage checks that an upstream that answers every request with a
// web page confirms nothing.
func TestPullFromWebPage(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, 5000))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Private("blue", "alice"), sitetest.Hub(up))
	sitetest.Pull(t, s, "red", "team/app", "1", sitetest.As("alice"))
	for name, length := range map[string]int{"another size": 4000, "the right size": 5000} {
		up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set("Content-Length", strconv.Itoa(length))
			_, _ = w.Write(bytes.Repeat([]byte("x"), length))
			return true
		})
		for _, verb := range []string{http.MethodHead, http.MethodGet} {
			for _, path := range []string{
				sitetest.BlobPath("blue", "team/app", image.Layers[0]), sitetest.ManifestPath("blue", "team/app", string(image.Manifest)), sitetest.ManifestPath("blue", "team/app", "1"),
				sitetest.BlobPath("blue", "team/app", digest.FromString("unknown")),
			} {
				if a := s.Get(path, sitetest.As("alice"), sitetest.Method(verb)); a.StatusCode == http.StatusOK && a.Err == nil {
					t.Errorf("%s: %s %s: got status 200 with %d bytes, want an error", name, verb, path, len(a.Data))
				}
			}
		}
		up.Heal()
	}
	sitetest.Pull(t, s, "blue", "team/app", "1", sitetest.As("alice"))
}

// TestPullQuestionsAreLimitedByGroup checks that an upstream that does not
// answer is asked a limited number of questions at a time for a group, even if
// the clients do not wait, and that the pull of another group is not delayed.
func TestPullQuestionsAreLimitedByGroup(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 50_000))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("red", "alice"), sitetest.Private("blue", "bob"), sitetest.Hub(up))
	token := s.Token("alice")
	const atOnce = 64 // as pullthrough.Questions has it
	var now, most atomic.Int32
	gate := make(chan struct{})
	up.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "library/odd") {
			return false
		}
		n := now.Add(1)
		for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
		}
		select {
		case <-gate:
		case <-r.Context().Done():
		}
		now.Add(-1)
		return false
	})
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		defer leave()
		for deadline := time.Now().Add(20 * time.Second); now.Load() < atOnce && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(500 * time.Millisecond) // for the questions that are too many
	}()
	sitetest.Concurrently(200, func(i int) {
		d := digest.FromString(fmt.Sprint(i))
		path := []string{sitetest.ManifestPath("red", "odd", string(d)), sitetest.BlobPath("red", "odd", d), "/v2/red" + directory.Infix + "odd/referrers/" + string(d)}[i%3]
		r, err := http.NewRequestWithContext(t.Context(), []string{http.MethodGet, http.MethodHead, http.MethodGet}[i%3], s.URL+path, nil)
		if err != nil {
			t.Error(err)
			return
		}
		sitetest.Bearer(token)(r)
		if response, err := http.DefaultClient.Do(r.WithContext(ctx)); err == nil {
			_ = response.Body.Close()
		}
	})
	if n := most.Load(); n != atOnce {
		t.Errorf("got %d questions at once, want %d", n, atOnce)
	}
	begin := time.Now()
	sitetest.Pull(t, s, "blue", "alpine", "3.20", sitetest.As("bob"))
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the other group's pull took %v, want less than 10s", took)
	}
	close(gate)
	sitetest.Eventually(t, "no question waits", func() bool { return now.Load() == 0 })
	sitetest.Pull(t, s, "red", "alpine", "3.20", sitetest.Bearer(token))
}

// TestPullBlobOfUnknownSize checks that a blob whose size upstream does not
// tell is downloaded once to learn it, and that each group gets the size by
// HEAD and by GET if its own repository contains the blob.
func TestPullBlobOfUnknownSize(t *testing.T) {
	const size = 300_000
	layer := sitetest.Random(2, size)
	// Beside the GET that downloads the blob, a HEAD for an unknown size makes one
	// that is closed at once.
	for first, gets := range map[string]int{"head": 2, "get": 1} {
		t.Run(first, func(t *testing.T) {
			up := registrytest.New(t, registrytest.WithoutLength())
			d := string(up.PutBlob("library/alpine", layer))
			s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Private("other", "alice"), sitetest.Hub(up))
			length := strconv.Itoa(size)
			for _, group := range []string{"acme", "other"} {
				path := sitetest.BlobPath(group, "alpine", d)
				if first == "get" {
					s.Get(path, sitetest.As("alice")).Content(t, layer).Has(t, "Content-Length", length)
					s.AwaitStored(d) // and its size is recorded
				}
				s.Head(path, sitetest.As("alice")).Expect(t, 200, "").Has(t, "Content-Length", length)
				s.Get(path, sitetest.As("alice")).Content(t, layer).Has(t, "Content-Length", length)
				s.AwaitStored(d)
			}
			if got := up.Counts().BlobGet; got != gets {
				t.Errorf("got %d GETs, want %d", got, gets)
			}
			up.Reset()
			s.Head(sitetest.BlobPath("other", "alpine", d), sitetest.As("alice")).Has(t, "Content-Length", length).Has(t, "Cache-Status", "dependency-proxy; hit")
			if counts := up.Counts(); counts != (registrytest.Counts{}) {
				t.Errorf("got requests %+v for a known size, want none", counts)
			}
			s.Head(sitetest.BlobPath("acme", "other", d), sitetest.As("alice")).Expect(t, 404, "")
		})
	}
}
