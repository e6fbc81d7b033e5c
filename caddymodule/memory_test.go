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

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// openUnread sends requests on n connections and reads only the first status
// line. Each connection requests enough to fill the buffers of the kernel, so
// the server waits in the middle of a response. Calling done closes the
// connections.
func (s *site) openUnread(n int, path string, changes ...requestOption) (done func()) {
	s.t.Helper()
	const asked = 4
	var connections []net.Conn
	done = func() {
		for _, c := range connections {
			_ = c.Close()
		}
	}
	s.t.Cleanup(done)
	for range n {
		c, err := net.Dial("tcp", s.host)
		if err != nil {
			s.t.Fatal(err)
		}
		connections = append(connections, c)
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+path, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, change := range changes {
			change(request)
		}
		var requests bytes.Buffer
		for range asked {
			_ = request.Write(&requests)
		}
		if _, err := c.Write(requests.Bytes()); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, c := range connections {
		_ = c.SetReadDeadline(time.Now().Add(client.Timeout))
		if line, err := bufio.NewReaderSize(c, 16).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 200 ") {
			s.t.Fatalf("got %q, %v; want status 200", line, err)
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
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	token := s.token("alice")
	for name, path := range map[string]string{
		"manifest by tag":    manifestPath("acme", "large", "1"),
		"manifest by digest": manifestPath("acme", "large", string(d)),
		"tags":               "/v2/acme" + infix + "large/tags/list",
	} {
		t.Run(name, func(t *testing.T) {
			whole := s.get(path, bearer(token)).expect(t, http.StatusOK, "")
			if strings.HasPrefix(name, "manifest") && !bytes.Equal(whole.body, manifest) {
				t.Errorf("got %d bytes, want %d others", len(whole.body), len(manifest))
			}
			before := heapInUse()
			done := s.openUnread(clients, path, bearer(token))
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
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	token, before := s.token("alice"), heapInUse()
	done := s.openUnread(clients, manifestPath("acme", "large", string(d)), bearer(token))
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
	s := newSite(t)
	s.before = "copy_probe"
	s.load(users("alice"), private("acme", "alice"), hub(up))
	for _, reference := range []string{"1", "1", string(d)} {
		copiedFile.Store(false)
		s.get(manifestPath("acme", "large", reference), as("alice")).content(t, manifest).has(t, "Content-Type", v1.MediaTypeImageManifest).has(t, "Docker-Content-Digest", string(d)).has(t, "Content-Length", fmt.Sprint(len(manifest)))
		if !copiedFile.Load() || copyChunk.Load() != sendChunk {
			t.Errorf("%s: got a file %v in chunks of %d, want a file in chunks of %d", reference, copiedFile.Load(), copyChunk.Load(), sendChunk)
		}
	}
	path := manifestPath("acme", "large", "1")
	sameHeaders(t, s.get(path, as("alice")), s.head(path, as("alice")))
	if a := s.get(manifestPath("acme", "large", "1"), as("alice"), header("If-None-Match", `"`+string(d)+`"`)); a.StatusCode != http.StatusNotModified {
		t.Errorf("got status %d, want %d", a.StatusCode, http.StatusNotModified)
	}
}

// TestChangedManifestIsRefetched checks that the request that finds a stored
// manifest changed fetches it again.
func TestChangedManifestIsRefetched(t *testing.T) {
	up := registrytest.New(t)
	manifest := largeManifest(1)
	d := up.PutManifest("library/large", v1.MediaTypeImageManifest, manifest, "1")
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	s.get(manifestPath("acme", "large", "1"), as("alice")).content(t, manifest)
	hex := d.Encoded()
	name := filepath.Join(s.cache, "blobs", "sha256", hex[:2], hex)
	if err := os.WriteFile(name, largeManifest(2), 0o600); err != nil {
		t.Fatal(err)
	}
	s.get(manifestPath("acme", "large", "1"), as("alice")).content(t, manifest)
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, manifest) {
		t.Errorf("got %d stored bytes, error %v; want the manifest", len(got), err)
	}
	if counts := up.Counts(); counts.ManifestGet != 2 {
		t.Errorf("got requests %+v, want two GETs of the manifest", counts)
	}
	if !strings.Contains(s.logs(), "stored blob was damaged and is dropped") {
		t.Error("the log lacks the damaged manifest")
	}
}

// TestTooManyLargeResponses checks that the memory of responses is bounded in
// total, and that a request beyond the bound gets 503.
func TestTooManyLargeResponses(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/small", "1", random(1, 100))
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	s.get("/v2/acme"+infix+"small/tags/list", as("alice")).expect(t, http.StatusOK, "")
	serveLargeTagLists(up)
	large := "/v2/acme" + infix + "large/tags/list"
	var done func()
	for _, c := range caches.All() {
		_, free, err := c.outgoing.Take("others", make([]byte, 64<<20))
		if done = free; err != nil {
			t.Fatal(err)
		}
	}
	refused := s.get(large, as("alice"))
	if refused.StatusCode != http.StatusServiceUnavailable || refused.code() != "UNAVAILABLE" || refused.Header.Get("Retry-After") != "10" {
		t.Errorf("got status %d, code %q, Retry-After %q; want 503, UNAVAILABLE and 10", refused.StatusCode, refused.code(), refused.Header.Get("Retry-After"))
	}
	s.get("/v2/acme"+infix+"small/tags/list", as("alice")).expect(t, http.StatusOK, "")
	s.head(large, as("alice")).expect(t, http.StatusOK, "")
	done()
	if a := s.get(large, as("alice")); a.StatusCode != http.StatusOK || len(a.body) < 1<<20 {
		t.Errorf("got status %d and %d bytes, want 200 and the list", a.StatusCode, len(a.body))
	}
}
