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

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
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
	layer := sitetest.Random(1, 2_000_000)
	d := up.PutBlob("library/alpine", layer)
	for timeouts, chunks := range map[string]struct{ configured, used int64 }{
		"": {caddyhttp.DefaultMaxWriteChunk, sendChunk}, "timeouts {\n write_max_chunk 100KB\n}": {100_000, 100_000},
	} {
		s := sitetest.NewSite(t)
		s.Globals = "servers {\n " + timeouts + "\n}"
		s.Before = "copy_probe"
		s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
		s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer)
		s.AwaitStored(string(d))
		copiedFile.Store(false)
		chunkAfter.Store(0)
		s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer)
		if !copiedFile.Load() || copyChunk.Load() != chunks.used {
			t.Errorf("%q: got a file %v in chunks of %d, want a file in chunks of %d", timeouts, copiedFile.Load(), copyChunk.Load(), chunks.used)
		}
		sitetest.Eventually(t, "the chunks are as they were", func() bool { return chunkAfter.Load() == chunks.configured })
		s.Stop()
	}
}

// TestRangeCopies checks that a range to the end of a stored blob is sent as a
// file too, and that other ranges do not use io.Copy, which allocates a buffer
// for each of Caddy's chunks.
func TestRangeCopies(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(2, 2_000_000)
	d := up.PutBlob("library/alpine", layer)
	s := sitetest.NewSite(t)
	s.Before = "copy_probe"
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	path := sitetest.BlobPath("acme", "alpine", d)
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
		a := s.Get(path, sitetest.As("alice"), sitetest.Header("Range", row.asked))
		if a.StatusCode != http.StatusPartialContent || !bytes.Equal(a.Data, row.want) {
			t.Errorf("%s: got %d with %d bytes, want 206 with %d bytes", row.asked, a.StatusCode, len(a.Data), len(row.want))
		}
		if n := copies.Load(); n != row.copies || n > 0 && !copiedFile.Load() {
			t.Errorf("%s: got %d copies, a file %v; want %d, each of a file", row.asked, n, copiedFile.Load(), row.copies)
		}
		s.AwaitStored(string(d))
	}
}
