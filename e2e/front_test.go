//go:build e2e

package e2e

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// front is a reverse proxy in front of a server. It records the requests and can
// limit the rate of the answers.
type front struct {
	address string
	server  *http.Server
	rate    atomic.Int64 // bytes a second of each answer, 0 without limit
	broken  atomic.Bool  // answers 503 to all

	mu   sync.Mutex
	seen []seenRequest
	sent map[string]int64 // bytes of blobs, by digest
}

type seenRequest struct {
	method, path, query, authorization, span string
	from                                     string // HOST:PORT
}

// newFront listens on address and forwards to target. With an authority it uses
// TLS with a certificate for name.
func newFront(address, target string, a *authority, name string) (*front, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	f := &front{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			// A registry puts its own address, as the client knows it, into Location.
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		FlushInterval: -1,
		ModifyResponse: func(answer *http.Response) error {
			answer.Body = &slowBody{ReadCloser: answer.Body, rate: &f.rate, count: f.counter(answer.Request.URL.Path)}
			return nil
		},
	}
	return f, f.listen(address, proxy, a, name)
}

// newRecorder returns a front for a handler.
func newRecorder(address string, handler http.Handler, a *authority, name string) (*front, error) {
	f := &front{}
	return f, f.listen(address, handler, a, name)
}

func (f *front) listen(address string, handler http.Handler, a *authority, name string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	f.address = listener.Addr().String()
	if a != nil {
		cert, err := a.issue(name)
		if err != nil {
			return err
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{cert}})
	}
	f.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.seen = append(f.seen, seenRequest{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Authorization"), r.Header.Get("Range"), r.RemoteAddr})
		f.mu.Unlock()
		if f.broken.Load() {
			http.Error(w, "out of order", http.StatusServiceUnavailable)
			return
		}
		handler.ServeHTTP(w, r)
	})}
	go func() { _ = f.server.Serve(listener) }()
	return nil
}

func (f *front) stop() { _ = f.server.Close() }

// forget resets the recorded requests and counts.
func (f *front) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen, f.sent = nil, nil
}

// counter counts the bytes sent of a blob.
func (f *front) counter(path string) func(n int) {
	_, digest, _ := strings.Cut(path, "/blobs/")
	return func(n int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.sent == nil {
			f.sent = map[string]int64{}
		}
		f.sent[digest] += int64(n)
	}
}

// bytesOf returns how many bytes of a blob were sent, over all requests.
func (f *front) bytesOf(digest string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent[digest]
}

func (f *front) requests() []seenRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]seenRequest(nil), f.seen...)
}

// blobs returns how often each blob was requested, by digest. A large blob may be
// requested in parts: only requests for its beginning count.
func (f *front) blobs() map[string]int {
	count := map[string]int{}
	for _, r := range f.requests() {
		if _, digest, ok := strings.Cut(r.path, "/blobs/"); ok && r.method == http.MethodGet {
			if r.span == "" || strings.HasPrefix(r.span, "bytes=0-") {
				count[digest]++
			} else {
				count[digest] += 0 // it was asked for
			}
		}
	}
	return count
}

// wantNoBlobs reports an error if a blob was requested from upstream.
func (f *front) wantNoBlobs(t *testing.T) {
	t.Helper()
	if blobs := f.blobs(); len(blobs) != 0 {
		t.Errorf("upstream was asked for blobs that are in the cache: %v", blobs)
	}
}

// wantOnce reports an error unless each of the blobs was requested from upstream
// once.
func (f *front) wantOnce(t *testing.T, blobs []string) {
	t.Helper()
	asked := f.blobs()
	for _, digest := range blobs {
		if asked[digest] != 1 {
			t.Errorf("upstream was asked %d times for %s, want once", asked[digest], digest)
		}
		delete(asked, digest)
	}
	if len(asked) != 0 {
		t.Errorf("upstream was asked for blobs that nobody wanted: %v", asked)
	}
}

// slowBody limits the rate of a body to the front's current rate.
type slowBody struct {
	io.ReadCloser
	rate  *atomic.Int64
	count func(n int)
}

func (b *slowBody) Read(p []byte) (n int, err error) {
	defer func() { b.count(n) }()
	rate := b.rate.Load()
	if rate == 0 {
		return b.ReadCloser.Read(p)
	}
	n, err = b.ReadCloser.Read(p[:min(len(p), 32<<10)])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
	return n, err
}
