package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// site is a server of a source's content. Like a registry, it sends whole bodies by io.Copy
// and answers all other requests by http.ServeContent. If a body fails, it aborts the
// connection.
type site struct {
	*env
	*source
	*httptest.Server
	answered chan struct{} // receives a value when a handler returns
	onGet    func()        // called when a handler has a reader
}

// serve returns a site with a cache in one of these states: "cold" has nothing stored,
// "ranges" is cold and fetches in ranges, "direct" cannot create a spool, and "warm" has
// the content stored.
func serve(t *testing.T, state string, content []byte) *site {
	t.Helper()
	e := newEnv(t, t.TempDir())
	w := &site{env: e, source: e.source(content), answered: make(chan struct{}, 100)}
	switch state {
	case "ranges":
		e.cache.SetSpans(50_000, 20_000, 100_000)
		w.connections = 4
	case "direct":
		e.store.refuseSpools()
	case "warm":
		if err := e.cache.PutBytes(t.Context(), w.digest, content); err != nil {
			t.Fatal(err)
		}
	}
	w.Server = httptest.NewServer(w)
	t.Cleanup(func() {
		w.Close()
		if state != "warm" {
			<-e.ended
		}
		e.tidy(t)
	})
	return w
}

// ServeHTTP answers a request with the content of the site's source.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() { s.answered <- struct{}{} }()
	content, _, err := s.cache.Get(r.Context(), s.request("a"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer content.Close()
	if s.onGet != nil {
		s.onGet()
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+s.digest.String()+`"`)
	if r.Method == http.MethodGet && r.Header.Get("Range") == "" {
		w.Header().Set("Content-Length", strconv.FormatInt(content.Size(), 10))
		_, err = io.Copy(w, content)
	} else {
		http.ServeContent(w, r, "", time.Time{}, content)
		err = content.Err()
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// ask sends a request with some header fields, given in pairs.
func (s *site) ask(t *testing.T, method string, header ...string) *http.Response {
	t.Helper()
	resp, err := http.DefaultClient.Do(s.asking(t, method, header...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// asking returns a request with some header fields, given in pairs.
func (s *site) asking(t *testing.T, method string, header ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

// TestReaderServesHTTP checks the status and the body of whole, range, conditional and HEAD
// requests in each state of the cache.
func TestReaderServesHTTP(t *testing.T) {
	content := random(110, 300_000)
	for name, want := range map[string]struct {
		method string
		header []string
		status int
		body   []byte
	}{
		"whole":     {"GET", nil, 200, content},
		"head":      {"HEAD", nil, 200, nil},
		"middle":    {"GET", []string{"Range", "bytes=1000-1999"}, 206, content[1000:2000]},
		"rest":      {"GET", []string{"Range", "bytes=299990-"}, 206, content[299_990:]},
		"suffix":    {"GET", []string{"Range", "bytes=-7"}, 206, content[299_993:]},
		"all":       {"GET", []string{"Range", "bytes=0-"}, 206, content},
		"beyond":    {"GET", []string{"Range", "bytes=300000-"}, 416, []byte("invalid range: failed to overlap\n")},
		"other":     {"GET", []string{"Range", "bytes=5-6", "If-Range", `"other"`}, 200, content},
		"unchanged": {"HEAD", []string{"If-None-Match", "*"}, 304, nil},
	} {
		for _, state := range []string{"cold", "ranges", "warm", "direct"} {
			t.Run(name+"/"+state, func(t *testing.T) {
				s := serve(t, state, content)
				resp := s.ask(t, want.method, want.header...)
				if resp.StatusCode != want.status {
					t.Errorf("got the status %s, want %d", resp.Status, want.status)
				}
				s.same(resp.Body, want.body)
			})
		}
	}
}

// TestReaderServesManyRanges checks the answer to a request for several ranges in each state
// of the cache.
func TestReaderServesManyRanges(t *testing.T) {
	content := random(111, 300_000)
	for _, state := range []string{"cold", "ranges", "warm", "direct"} {
		t.Run(state, func(t *testing.T) {
			s := serve(t, state, content)
			resp := s.ask(t, "GET", "Range", "bytes=200000-249999,10-19,-5")
			_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
			if err != nil || resp.StatusCode != http.StatusPartialContent {
				t.Fatalf("got the status %s and the error %v for the Content-Type, want the status %d and no error", resp.Status, err, http.StatusPartialContent)
			}
			parts := multipart.NewReader(resp.Body, params["boundary"])
			for _, want := range [][]byte{content[200_000:250_000], content[10:20], content[299_995:]} {
				part, err := parts.NextPart()
				if err != nil {
					t.Fatal(err)
				}
				s.same(part, want)
			}
		})
	}
}

// TestReaderFlushesToHTTP checks that a client can read the bytes that the source has sent so
// far while the source has not sent the rest.
func TestReaderFlushesToHTTP(t *testing.T) {
	s := serve(t, "cold", random(112, 300_000))
	gate := make(chan struct{})
	s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
		return s.body(offset, io.MultiReader(io.LimitReader(s.from(0), 2000), gated(ctx, gate, s.from(2000)))), nil
	}
	resp := s.ask(t, "GET")
	first := make([]byte, 1999)
	if _, err := io.ReadFull(resp.Body, first); err != nil || !bytes.Equal(first, s.content[:1999]) {
		t.Fatal("the first bytes: got other bytes or the error", err, "- want the content and no error")
	}
	close(gate)
	s.same(resp.Body, s.content[1999:])
}

// TestReaderBreaksHTTP checks that clients of whole bodies and of ranges get an error if the
// content from the source does not match its digest.
func TestReaderBreaksHTTP(t *testing.T) {
	for _, state := range []string{"cold", "direct"} {
		for _, ranges := range []string{"", "bytes=0-", "bytes=5-", "bytes=0-9,200-"} {
			t.Run(state+"/"+ranges, func(t *testing.T) {
				s := serve(t, state, random(113, 300_000))
				asked := make(chan struct{})
				s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
					return s.body(0, gated(ctx, asked, bytes.NewReader(flipped(s.content, 299_999)))), nil
				}
				s.onGet = func() { close(asked) }
				resp, err := http.DefaultClient.Do(s.asking(t, "GET", "Range", ranges))
				if err != nil {
					return // the connection was aborted before the first byte
				}
				defer resp.Body.Close()
				if got, err := io.ReadAll(resp.Body); err == nil && resp.StatusCode < 300 {
					t.Errorf("got %d bytes and no error, want an error", len(got))
				}
			})
		}
	}
}

// deaf is the ResponseWriter of a client that disconnects when the second part of its answer
// begins.
type deaf struct{ http.ResponseWriter }

func (d deaf) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("bytes 200-299/")) {
		synctest.Wait() // until the handler waits for the bytes of the second part
		return 0, errors.New("client is gone")
	}
	return d.ResponseWriter.Write(p)
}

// TestReaderCloseDuringServeContent checks that Close ends a read that http.ServeContent has
// left running in a goroutine of its own.
func TestReaderCloseDuringServeContent(t *testing.T) {
	for name, run := range map[string]func(*testing.T, func(*testing.T, *env)){"cold": bubble, "direct": noSpool} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, e *env) {
				s, never := e.source(random(115, 1000)), make(chan struct{})
				s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
					return s.body(offset, io.MultiReader(io.LimitReader(s.from(0), 100), gated(ctx, never, s.from(100)))), nil
				}
				r := e.mustGet(s)
				req := httptest.NewRequest(http.MethodGet, "/", nil)
				req.Header.Set("Range", "bytes=0-9,200-299")
				http.ServeContent(deaf{httptest.NewRecorder()}, req, "layer.bin", time.Time{}, r)
				_ = r.Err()
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestReaderHTTPClientLeaves checks that the handler returns if the client disconnects while
// the server waits for bytes of the second range, which http.ServeContent reads in a
// goroutine of its own.
func TestReaderHTTPClientLeaves(t *testing.T) {
	for _, state := range []string{"cold", "direct"} {
		t.Run(state, func(t *testing.T) {
			s := serve(t, state, random(114, 300_000))
			gate := make(chan struct{})
			s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
				return s.body(offset, io.MultiReader(io.LimitReader(s.from(0), 20_000), gated(ctx, gate, s.from(20_000)))), nil
			}
			resp := s.ask(t, "GET", "Range", "bytes=0-9999,200000-")
			if _, err := io.ReadFull(resp.Body, make([]byte, 9000)); err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			<-s.answered
			close(gate)
		})
	}
}
