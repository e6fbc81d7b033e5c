package pull

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestDownloadsPerGroupLimit checks that a group at its limit of downloads gets
// 503 with Retry-After, and that other groups and stored content are not
// affected.
func TestDownloadsPerGroupLimit(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 50_000))
	var slow []digest.Digest
	for i := range 4 {
		slow = append(slow, up.PutBlob("library/alpine", sitetest.Random(byte(10+i), 200_000)))
	}
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("red", "alice"), sitetest.Private("blue", "bob"), sitetest.Private("red/own", "alice"),
		sitetest.Hub(up, "downloads {\n max 8\n max_per_group 2\n}"))
	sitetest.Pull(t, s, "blue", "alpine", "3.20", sitetest.As("bob"))
	small := up.PutImage("library/alpine", "3.21", sitetest.Random(2, 50_000))
	release := up.StallBlobs(100_000)
	defer release()
	for i := range 2 {
		response := s.Open(sitetest.BlobPath("red", "alpine", slow[i]), sitetest.As("alice"))
		if response.StatusCode != http.StatusOK {
			t.Fatalf("download %d: got %d, want 200", i, response.StatusCode)
		}
		_ = response.Body.Close() // a download without a client still counts
	}
	for range 3 {
		a := s.Get(sitetest.BlobPath("red", "alpine", slow[2]), sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		a.Has(t, "Retry-After", "10")
		if _, message := a.Problem(); !strings.Contains(message, "too many downloads from docker.io") {
			t.Errorf("got the message %q, want \"too many downloads\" in it", message)
		}
	}
	begin := time.Now()
	sitetest.Pull(t, s, "blue", "alpine", "3.21", sitetest.As("bob"))
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("the pull of the other group took %v, want at most 20s", took)
	}
	s.AwaitStored(string(small.Layers[0]))
	// A declared subgroup is counted separately.
	if response := s.Open(sitetest.BlobPath("red/own", "alpine", slow[3]), sitetest.As("alice")); response.StatusCode != http.StatusOK {
		t.Errorf("a declared subgroup: got %d, want 200", response.StatusCode)
	}
	up.Reset()
	s.Get(sitetest.BlobPath("blue", "alpine", image.Layers[0]), sitetest.As("bob")).Expect(t, http.StatusOK, "")
	if n := strings.Count(s.Logs(), "too many downloads are under way; rejecting pulls"); n != 1 {
		t.Errorf("got %d log lines about too many downloads, want 1", n)
	}
	release()
	sitetest.Eventually(t, "the group may download again", func() bool {
		response := s.Open(sitetest.BlobPath("red", "alpine", slow[2]), sitetest.As("alice"))
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// TestHeadCountsAsDownload checks that a HEAD counts as a download if the size
// of the blob has to be learned by a download.
func TestHeadCountsAsDownload(t *testing.T) {
	up := registrytest.New(t, registrytest.WithoutLength())
	var blobs []digest.Digest
	for i := range 3 {
		blobs = append(blobs, up.PutBlob("library/alpine", sitetest.Random(byte(i), 200_000)))
	}
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Hub(up, "downloads {\n max_per_group 2\n}"))
	release := up.StallBlobs(100_000)
	defer release()
	var all sync.WaitGroup
	for _, d := range blobs[:2] {
		all.Go(func() {
			s.Head(sitetest.BlobPath("red", "alpine", d), sitetest.As("alice")).Expect(t, http.StatusOK, "")
		})
	}
	// Two GETs for each: one that is not read, and the download.
	sitetest.Eventually(t, "both are being downloaded", func() bool { return up.Counts().BlobGet == 4 })
	s.Head(sitetest.BlobPath("red", "alpine", blobs[2]), sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, "").Has(t, "Retry-After", "10")
	release()
	all.Wait()
	s.Head(sitetest.BlobPath("red", "alpine", blobs[2]), sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Content-Length", "200000")
}

// TestDownloadLimitsReload checks that changed limits apply to downloads that
// are already running, and that an invalid configuration changes no limit.
func TestDownloadLimitsReload(t *testing.T) {
	up := registrytest.New(t)
	var slow []digest.Digest
	for i := range 5 {
		slow = append(slow, up.PutBlob("library/alpine", sitetest.Random(byte(i), 200_000)))
	}
	s := sitetest.NewSite(t)
	load := func(limits string) error {
		return s.TryLoad(sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Hub(up, "downloads {\n "+limits+"\n}"))
	}
	ask := func(i, status int) {
		t.Helper()
		response := s.Open(sitetest.BlobPath("red", "alpine", slow[i]), sitetest.As("alice"))
		_ = response.Body.Close()
		if response.StatusCode != status {
			t.Errorf("download %d: got %d, want %d", i, response.StatusCode, status)
		}
	}
	if err := load("max_per_group 2"); err != nil {
		t.Fatal(err)
	}
	release := up.StallBlobs(100_000)
	defer release()
	ask(0, http.StatusOK)
	ask(1, http.StatusOK)
	ask(2, http.StatusServiceUnavailable)
	if err := load("max 2\n max_per_group 3"); err == nil {
		t.Error("got no error for a group with more downloads than the upstream, want one")
	}
	ask(2, http.StatusServiceUnavailable)
	if err := load("max_per_group 3"); err != nil {
		t.Fatal(err)
	}
	ask(2, http.StatusOK)
	ask(3, http.StatusServiceUnavailable)
	if err := load("max_per_group 1"); err != nil {
		t.Fatal(err)
	}
	ask(3, http.StatusServiceUnavailable)
	ask(0, http.StatusOK) // follows a running download
	release()
	sitetest.Eventually(t, "there is room again", func() bool {
		response := s.Open(sitetest.BlobPath("red", "alpine", slow[4]), sitetest.As("alice"))
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// TestClaimedSizeReservesNothing checks that the size that an upstream
// announces evicts nothing of other groups, whether it exceeds the cache or
// nearly fills it.
func TestClaimedSizeReservesNothing(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 3_200_000)
	red := up.PutBlob("library/alpine", layer)
	s := sitetest.NewSite(t)
	s.Limits = "max_size 7MB"
	s.Load(sitetest.Users("alice", "bob"), sitetest.Private("red", "alice"), sitetest.Private("blue", "bob"), sitetest.Hub(up, "downloads {\n stall_timeout 1s\n}"))
	s.Get(sitetest.BlobPath("red", "alpine", red), sitetest.As("alice")).Content(t, layer)
	s.AwaitStored(string(red))
	for i, claimed := range []int64{6_200_000, 1 << 50} {
		claim := up.PutBlob("library/alpine", sitetest.Random(byte(2+i), 1000))
		up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, claim.Encoded()) {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(claimed))
			_, _ = w.Write(make([]byte, 100))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		})
		response := s.Open(sitetest.BlobPath("blue", "alpine", claim), sitetest.As("bob"))
		if response.ContentLength != claimed {
			t.Errorf("got %d announced bytes, want %d", response.ContentLength, claimed)
		}
		time.Sleep(500 * time.Millisecond)
		if !s.IsStored(red) {
			t.Fatalf("a claim of %d bytes has evicted the content of another group, want it stored", claimed)
		}
		_ = response.Body.Close()
	}
	up.Heal()
}

// TestSlowDownloadEnds checks that a download below the minimal rate is
// aborted, and that the next pull can start again.
func TestSlowDownloadEnds(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 500_000)
	d := up.PutBlob("library/alpine", layer)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "downloads {\n min_rate 1MB\n rate_window 1s\n}"))
	up.Throttle(20_000)
	s.ExpectBroken(sitetest.BlobPath("acme", "alpine", d))
	sitetest.Eventually(t, "the log says why", func() bool { return strings.Contains(s.Logs(), "the source is too slow") })
	up.Throttle(0)
	s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer)
}
