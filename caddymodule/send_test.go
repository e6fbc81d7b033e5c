package caddymodule

import (
	"bytes"
	"io"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func init() {
	caddy.RegisterModule(new(copyProbe))
	httpcaddyfile.RegisterHandlerDirective("copy_probe", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return new(copyProbe), nil })
	httpcaddyfile.RegisterDirectiveOrder("copy_probe", httpcaddyfile.Before, "handle")
}

// copyProbe observes how the handler behind it sends content.
type copyProbe struct{}

// The number of copies, whether the last one was of a file, and Caddy's chunk
// size during and after the last request.
var (
	copies     atomic.Int64
	copiedFile atomic.Bool
	copyChunk  atomic.Int64
	chunkAfter atomic.Int64
)

func (*copyProbe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.copy_probe", New: func() caddy.Module { return new(copyProbe) }}
}

func (*copyProbe) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	_, idle := caddyhttp.IdleTimeoutsFromContext(r.Context())
	err := next.ServeHTTP(probedWriter{&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, idle}, r)
	chunkAfter.Store(int64(idle.MaxChunk))
	return err
}

type probedWriter struct {
	*caddyhttp.ResponseWriterWrapper
	idle *caddyhttp.IdleTimeoutWriter
}

func (w probedWriter) ReadFrom(r io.Reader) (int64, error) {
	copies.Add(1)
	_, file := r.(syscall.Conn) // an *os.File, or a wrapper of one
	copiedFile.Store(file)
	copyChunk.Store(int64(w.idle.MaxChunk))
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// TestSendfile checks that a stored blob reaches Caddy's writer as a file, so
// that the kernel can send it, and in chunks that are large enough.
func TestSendfile(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 2_000_000)
	d := up.PutBlob("library/alpine", layer)
	for timeouts, chunks := range map[string]struct{ configured, used int64 }{
		"": {caddyhttp.DefaultMaxWriteChunk, sendChunk}, "timeouts {\n write_max_chunk 100KB\n}": {100_000, 100_000},
	} {
		s := newSite(t)
		s.globals = "servers {\n " + timeouts + "\n}"
		s.before = "copy_probe"
		s.load(users("alice"), private("acme", "alice"), hub(up))
		s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer)
		s.awaitStored(string(d))
		copiedFile.Store(false)
		chunkAfter.Store(0)
		s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer)
		if !copiedFile.Load() || copyChunk.Load() != chunks.used {
			t.Errorf("%q: got a file %v in chunks of %d, want a file in chunks of %d", timeouts, copiedFile.Load(), copyChunk.Load(), chunks.used)
		}
		eventually(t, "the chunks are as they were", func() bool { return chunkAfter.Load() == chunks.configured })
		s.stop()
	}
}

// TestRangeCopies checks that a range to the end of a stored blob is sent as a
// file too, and that other ranges do not use io.Copy, which allocates a buffer
// for each of Caddy's chunks.
func TestRangeCopies(t *testing.T) {
	up := registrytest.New(t)
	layer := random(2, 2_000_000)
	d := up.PutBlob("library/alpine", layer)
	s := newSite(t)
	s.before = "copy_probe"
	s.load(users("alice"), private("acme", "alice"), hub(up))
	path := blobPath("acme", "alpine", d)
	for _, row := range []struct {
		asked  string
		want   []byte
		copies int64
	}{
		{"bytes=1000-1900000", layer[1000:1_900_001], 0}, // from a cold cache
		{"bytes=1000-1900000", layer[1000:1_900_001], 0},
		{"bytes=1000-", layer[1000:], 1},
		{"bytes=-1000", layer[len(layer)-1000:], 1},
	} {
		copies.Store(0)
		copiedFile.Store(false)
		a := s.get(path, as("alice"), header("Range", row.asked))
		if a.StatusCode != http.StatusPartialContent || !bytes.Equal(a.body, row.want) {
			t.Errorf("%s: got %d with %d bytes, want 206 with %d bytes", row.asked, a.StatusCode, len(a.body), len(row.want))
		}
		if n := copies.Load(); n != row.copies || n > 0 && !copiedFile.Load() {
			t.Errorf("%s: got %d copies, a file %v; want %d, each of a file", row.asked, n, copiedFile.Load(), row.copies)
		}
		s.awaitStored(string(d))
	}
}
