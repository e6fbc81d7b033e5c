package upstream

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// Operation is what an HTTP request of a [Registry] asks for.
type Operation string

// The operations. A HEAD for a manifest or a blob is OperationHead.
const (
	OperationToken     Operation = "token" // from a token service
	OperationPing      Operation = "ping"  // the version check
	OperationHead      Operation = "head"
	OperationManifest  Operation = "manifest"
	OperationBlob      Operation = "blob"
	OperationTags      Operation = "tags"
	OperationReferrers Operation = "referrers"
)

// operation returns the operation of a call.
func (c *call) operation() Operation {
	switch path, _, _ := strings.Cut(c.path, "/"); {
	case c.tokenService:
		return OperationToken
	case c.method == http.MethodHead:
		return OperationHead
	case path == "manifests":
		return OperationManifest
	case path == "blobs":
		return OperationBlob
	case path == "tags":
		return OperationTags
	case path == "referrers":
		return OperationReferrers
	}
	return OperationPing
}

// answered calls the hook Answered for a response, which is nil if there was none.
func (h *Hooks) answered(c *call, resp *http.Response, took time.Duration) {
	if h.Answered == nil {
		return
	}
	status := 0
	if resp != nil {
		status = resp.StatusCode
	}
	h.Answered(c.operation(), status, took)
}

// countedBody reports the bytes that are read of a body.
type countedBody struct {
	io.ReadCloser
	received func(n int)
}

// Read implements [io.Reader].
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.received(n)
	}
	return n, err
}
