package caddymodule

import (
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

// copyProbe sees how the handler behind it sends what it copies.
type copyProbe struct{}

// What was copied last, and in chunks of what size Caddy was to send it.
var (
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
	_, file := r.(syscall.Conn) // an *os.File, or what it makes of itself
	copiedFile.Store(file)
	copyChunk.Store(int64(w.idle.MaxChunk))
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// TestSendfile: what is stored reaches Caddy's writer as a file, which is what
// lets the kernel send it, and in chunks that are worth that.
func TestSendfile(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 2_000_000)
	d := up.PutBlob("library/alpine", layer)
	for timeouts, chunks := range map[string]struct{ configured, used int64 }{
		"": {caddyhttp.DefaultMaxWriteChunk, sendfileChunk}, "timeouts {\n write_max_chunk 100KB\n}": {100_000, 100_000},
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
			t.Errorf("%q: a file: %v, in chunks of %d", timeouts, copiedFile.Load(), copyChunk.Load())
		}
		eventually(t, "the chunks are as they were", func() bool { return chunkAfter.Load() == chunks.configured })
		s.stop()
	}
}
