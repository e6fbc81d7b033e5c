package caddymodule

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// openUnread sends requests on n connections and reads only the first status
// line. Each connection requests enough to fill the buffers of the kernel, so
// the server waits in the middle of a response. Calling done closes the
// connections.
func openUnread(s *sitetest.Site, n int, path string, changes ...sitetest.RequestOption) (done func()) {
	s.T.Helper()
	const asked = 4
	var connections []net.Conn
	done = func() {
		for _, c := range connections {
			_ = c.Close()
		}
	}
	s.T.Cleanup(done)
	for range n {
		c, err := net.Dial("tcp", s.Host)
		if err != nil {
			s.T.Fatal(err)
		}
		connections = append(connections, c)
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		request, err := http.NewRequestWithContext(s.T.Context(), http.MethodGet, s.URL+path, nil)
		if err != nil {
			s.T.Fatal(err)
		}
		for _, change := range changes {
			change(request)
		}
		var requests bytes.Buffer
		for range asked {
			_ = request.Write(&requests)
		}
		if _, err := c.Write(requests.Bytes()); err != nil {
			s.T.Fatal(err)
		}
	}
	for _, c := range connections {
		_ = c.SetReadDeadline(time.Now().Add(sitetest.Client.Timeout))
		if line, err := bufio.NewReaderSize(c, 16).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 200 ") {
			s.T.Fatalf("got %q, %v; want status 200", line, err)
		}
	}
	time.Sleep(500 * time.Millisecond) // until all connections are blocked
	return done
}

// heapInUse returns the bytes in use on the heap after a garbage collection.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// largeManifest returns a manifest of nearly the greatest length.
func largeManifest(n int) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"n":%d,"pad":%q}`, n, strings.Repeat("x", 4<<20-1000))
}

// serveLargeTagLists makes upstream answer with lists of tags of nearly the
// greatest length.
func serveLargeTagLists(up *registrytest.Registry) {
	tags := make([]string, 40_000)
	for i := range tags {
		tags[i] = fmt.Sprintf("%s-%d", strings.Repeat("t", 90), i)
	}
	up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/tags/list") {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"name": "x", "tags": tags})
		return true
	})
}

// TestUnreadResponsesShareMemory checks that clients that do not read their
// responses take no memory of the size of the content.
func TestUnreadResponsesShareMemory(t *testing.T) {
	const clients, most = 100, 64 << 20 // a copy for each client would take 400 MiB
	up := registrytest.New(t)
	serveLargeTagLists(up)
	manifest := largeManifest(1)
	d := up.PutManifest("library/large", v1.MediaTypeImageManifest, manifest, "1")
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	token := s.Token("alice")
	for name, path := range map[string]string{
		"manifest by tag":    sitetest.ManifestPath("acme", "large", "1"),
		"manifest by digest": sitetest.ManifestPath("acme", "large", string(d)),
		"tags":               "/v2/acme" + infix + "large/tags/list",
	} {
		t.Run(name, func(t *testing.T) {
			whole := s.Get(path, sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
			if strings.HasPrefix(name, "manifest") && !bytes.Equal(whole.Data, manifest) {
				t.Errorf("got %d bytes, want %d others", len(whole.Data), len(manifest))
			}
			before := heapInUse()
			done := openUnread(s, clients, path, sitetest.Bearer(token))
			if grown := heapInUse() - before; grown > most {
				t.Errorf("got a heap that is %d MiB larger, want %d at most", grown>>20, most>>20)
			}
			done()
		})
	}
}

// TestUnreadColdManifest checks that requests that wait for the same fetch have
// the manifest in memory once, and not while it is sent.
func TestUnreadColdManifest(t *testing.T) {
	const clients, most = 50, 64 << 20
	up := registrytest.New(t)
	d := up.PutManifest("library/large", v1.MediaTypeImageManifest, largeManifest(1), "1")
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	token, before := s.Token("alice"), heapInUse()
	done := openUnread(s, clients, sitetest.ManifestPath("acme", "large", string(d)), sitetest.Bearer(token))
	if grown := heapInUse() - before; grown > most {
		t.Errorf("got a heap that is %d MiB larger, want %d at most", grown>>20, most>>20)
	}
	if counts := up.Counts(); counts.ManifestGet != 1 {
		t.Errorf("got requests %+v, want one GET of the manifest", counts)
	}
	done()
}

// TestLargeManifestIsSentAsFile checks that a large manifest is sent as a file,
// like blobs, even to requests that have waited for it.
func TestLargeManifestIsSentAsFile(t *testing.T) {
	up := registrytest.New(t)
	manifest := largeManifest(1)
	d := up.PutManifest("library/large", v1.MediaTypeImageManifest, manifest, "1")
	s := sitetest.NewSite(t)
	s.Before = "copy_probe"
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	for _, reference := range []string{"1", "1", string(d)} {
		copiedFile.Store(false)
		s.Get(sitetest.ManifestPath("acme", "large", reference), sitetest.As("alice")).Content(t, manifest).Has(t, "Content-Type", v1.MediaTypeImageManifest).Has(t, "Docker-Content-Digest", string(d)).Has(t, "Content-Length", fmt.Sprint(len(manifest)))
		if !copiedFile.Load() || copyChunk.Load() != sendChunk {
			t.Errorf("%s: got a file %v in chunks of %d, want a file in chunks of %d", reference, copiedFile.Load(), copyChunk.Load(), sendChunk)
		}
	}
	path := sitetest.ManifestPath("acme", "large", "1")
	sitetest.SameHeaders(t, s.Get(path, sitetest.As("alice")), s.Head(path, sitetest.As("alice")))
	if a := s.Get(sitetest.ManifestPath("acme", "large", "1"), sitetest.As("alice"), sitetest.Header("If-None-Match", `"`+string(d)+`"`)); a.StatusCode != http.StatusNotModified {
		t.Errorf("got status %d, want %d", a.StatusCode, http.StatusNotModified)
	}
}

// TestChangedManifestIsRefetched checks that the request that finds a stored
// manifest changed fetches it again.
func TestChangedManifestIsRefetched(t *testing.T) {
	up := registrytest.New(t)
	manifest := largeManifest(1)
	d := up.PutManifest("library/large", v1.MediaTypeImageManifest, manifest, "1")
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	s.Get(sitetest.ManifestPath("acme", "large", "1"), sitetest.As("alice")).Content(t, manifest)
	hex := d.Encoded()
	name := filepath.Join(s.Cache, "blobs", "sha256", hex[:2], hex)
	if err := os.WriteFile(name, largeManifest(2), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Get(sitetest.ManifestPath("acme", "large", "1"), sitetest.As("alice")).Content(t, manifest)
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, manifest) {
		t.Errorf("got %d stored bytes, error %v; want the manifest", len(got), err)
	}
	if counts := up.Counts(); counts.ManifestGet != 2 {
		t.Errorf("got requests %+v, want two GETs of the manifest", counts)
	}
	if !strings.Contains(s.Logs(), "stored blob was damaged and is dropped") {
		t.Error("the log lacks the damaged manifest")
	}
}

// TestTooManyLargeResponses checks that the memory of responses is bounded in
// total, and that a request beyond the bound gets 503.
func TestTooManyLargeResponses(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/small", "1", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	s.Get("/v2/acme"+infix+"small/tags/list", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	serveLargeTagLists(up)
	large := "/v2/acme" + infix + "large/tags/list"
	var done func()
	for _, c := range caches.All() {
		_, free, err := c.outgoing.Take("others", make([]byte, 64<<20))
		if done = free; err != nil {
			t.Fatal(err)
		}
	}
	refused := s.Get(large, sitetest.As("alice"))
	if refused.StatusCode != http.StatusServiceUnavailable || refused.Code() != "UNAVAILABLE" || refused.Header.Get("Retry-After") != "10" {
		t.Errorf("got status %d, code %q, Retry-After %q; want 503, UNAVAILABLE and 10", refused.StatusCode, refused.Code(), refused.Header.Get("Retry-After"))
	}
	s.Get("/v2/acme"+infix+"small/tags/list", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	s.Head(large, sitetest.As("alice")).Expect(t, http.StatusOK, "")
	done()
	if a := s.Get(large, sitetest.As("alice")); a.StatusCode != http.StatusOK || len(a.Data) < 1<<20 {
		t.Errorf("got status %d and %d bytes, want 200 and the list", a.StatusCode, len(a.Data))
	}
}
