package caddymodule

import (
	"errors"
	"net/http"
	"sync"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
)

// body is the content of a manifest: in memory where it is small or cannot be
// stored, else a reader of the stored file, which takes no memory for a client that
// reads slowly. It must be closed. A nil body is that of an answer without one.
type body struct {
	bytes []byte
	file  *blobcache.Reader // nil if it is in memory
}

func (b *body) size() int64 {
	switch {
	case b == nil:
		return 0
	case b.file != nil:
		return b.file.Size()
	}
	return int64(len(b.bytes))
}

func (b *body) close() {
	if b != nil && b.file != nil {
		_ = b.file.Close()
	}
}

const (
	// largeAnswer is how many bytes an answer that is in memory may have without
	// being counted: about what the connection takes itself.
	largeAnswer = 64 << 10

	// answersLimit bounds the larger ones that are being sent, in bytes.
	answersLimit = 64 << 20
)

// outgoing are the large answers that are being sent from memory: lists, and
// manifests that could not be stored. Each is in memory once, however many clients
// take it and however slowly.
type outgoing struct {
	mu    sync.Mutex
	sent  map[any]*sending
	bytes int
}

type sending struct {
	content []byte
	clients int
}

var errTooManyAnswers = errors.New("too much is being sent from memory")

// take returns the content to send, which is that of the first who sends the same,
// and what to call when it is sent. An error says that there is no room for it.
func (o *outgoing) take(what any, content []byte) (shared []byte, done func(), err error) {
	if len(content) <= largeAnswer {
		return content, func() {}, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	one := o.sent[what]
	if one == nil {
		if o.bytes+len(content) > answersLimit {
			return nil, nil, errTooManyAnswers
		}
		if o.sent == nil {
			o.sent = make(map[any]*sending)
		}
		one = &sending{content: content}
		o.sent[what] = one
		o.bytes += len(content)
	}
	one.clients++
	return one.content, func() { o.done(what, one) }, nil
}

func (o *outgoing) done(what any, sent *sending) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if sent.clients--; sent.clients == 0 {
		delete(o.sent, what)
		o.bytes -= len(sent.content)
	}
}

// takeAnswer is take for the client of this exchange.
func (ex *exchange) takeAnswer(what any, content []byte) (shared []byte, done func(), refusal *apiError) {
	if !ex.wantsBody() {
		content = nil
	}
	shared, done, err := ex.outgoing.take(what, content)
	if err != nil {
		refusal = refuse(unavailable, "too many large answers are being sent at this moment; try again")
		refusal.cause, refusal.retryAfter = err, retrySoon
	}
	return shared, done, refusal
}

// sendManifest sends a manifest from memory, or from its file as blobs are sent.
func (ex *exchange) sendManifest(m manifest) *apiError {
	if m.content == nil {
		m.content = new(body)
	}
	// The client's own copy must go while it reads.
	shared, done, refusal := ex.takeAnswer(m.Digest, m.content.bytes)
	if m.content.bytes = shared; refusal != nil {
		return refusal
	}
	defer done()
	if ex.notModified(ex.describe([]string{m.MediaType}, m.Digest, m.status)) {
		return nil
	}
	ex.setLength(m.Size)
	if m.content.file == nil {
		ex.w.WriteHeader(http.StatusOK)
		_, _ = ex.w.Write(shared) // a client that has left needs no error
		return nil
	}
	defer ex.widenChunks()()
	ex.w.WriteHeader(http.StatusOK)
	if _, err := m.content.file.WriteTo(ex.w); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}
