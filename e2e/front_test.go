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

// front stands before a server, writes down what it is asked, and can slow it.
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
	method, path, authorization, span string
}

// newFront listens on address and hands on to target. With an authority it
// speaks TLS, with a certificate for name.
func newFront(address, target string, a *authority, name string) (*front, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	f := &front{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			// A registry writes its own address, as the client knows it, into Location.
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

// newRecorder is a front before a handler.
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
		f.seen = append(f.seen, seenRequest{r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Range")})
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

// forget starts the count anew.
func (f *front) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen, f.sent = nil, nil
}

// counter counts what is sent of a blob.
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

// bytesOf tells how many bytes of a blob were sent, in however many parts.
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

// blobs tells how often each blob was asked for, by digest. The parts of a large
// one may be asked for at once: what counts is its beginning.
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

// wantNoBlobs fails the test when upstream was asked for any blob.
func (f *front) wantNoBlobs(t *testing.T) {
	t.Helper()
	if blobs := f.blobs(); len(blobs) != 0 {
		t.Errorf("upstream was asked for blobs that are in the cache: %v", blobs)
	}
}

// wantOnce fails the test unless upstream was asked once for each of the blobs.
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

// slowBody hands out a body at the rate that holds at the moment.
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
