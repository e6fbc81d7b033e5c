package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
)

const (
	// smallRead is the part of a response in bytes that is read without
	// waiting for largeReads.
	smallRead = 64 << 10

	// maxLargeReads is the number of responses larger than smallRead that are
	// read at a time. It bounds the memory that an upstream can occupy by
	// sending many of them slowly.
	maxLargeReads = 16

	// maxListReads is the same for lists of tags, whose turns are their own, so that
	// lists that are read slowly do not delay manifests.
	maxListReads = 4

	// maxHugeReads is the number of responses larger than MaxManifest that are in memory
	// at a time. Only lists of tags can be that large.
	maxHugeReads = 1
)

// response is the response to a call after redirects.
type response struct {
	*http.Response
	*trail
}

// readAll reads the whole body of a response, at most limit bytes, and closes it. It
// undoes a content coding; the result has at most limit bytes, too.
func (r *Registry) readAll(ctx context.Context, c *call, resp *response, limit int64) ([]byte, error) {
	turns := reader{registry: r}
	defer turns.release()
	return r.readInTurn(ctx, c, resp, limit, &turns)
}

// readList is readAll for a list of tags, and returns what part makes of it. Other
// lists are not read meanwhile if the list is huge.
func (r *Registry) readList(ctx context.Context, c *call, resp *response, part func([]byte) ([]byte, error)) ([]byte, error) {
	turns := reader{registry: r, list: true}
	defer turns.release()
	content, err := r.readInTurn(ctx, c, resp, maxTagList, &turns)
	if err != nil {
		return nil, err
	}
	if content, err = part(content); err != nil {
		return nil, r.newError(c, Invalid, resp.StatusCode, err.Error())
	}
	return content, nil
}

func (r *Registry) readInTurn(ctx context.Context, c *call, resp *response, limit int64, turns *reader) ([]byte, error) {
	defer resp.Body.Close()
	if resp.ContentLength > limit {
		return nil, r.tooLarge(c, resp, limit)
	}
	content, err := turns.read(ctx, io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, r.transferError(ctx, c, resp.StatusCode, err)
	}
	if int64(len(content)) > limit {
		return nil, r.tooLarge(c, resp, limit)
	}
	coding := header.ContentCoding(resp.Response)
	if coding == "" {
		return content, nil
	}
	// A short body may become a long one.
	if err := turns.takeAll(ctx); err != nil {
		return nil, r.transferError(ctx, c, resp.StatusCode, err)
	}
	content, err = header.Decode(content, coding, limit)
	switch {
	case err == header.ErrDecodedTooLarge:
		return nil, r.tooLarge(c, resp, limit)
	case err != nil:
		return nil, r.newError(c, Invalid, resp.StatusCode, err.Error())
	}
	return content, nil
}

func (r *Registry) tooLarge(c *call, resp *response, limit int64) *Error {
	return r.newError(c, Invalid, resp.StatusCode, fmt.Sprintf("the response is larger than %d bytes", limit))
}

// reader reads a response of a registry. To bound how many large ones are in memory, it
// takes a turn of largeReads (of listReads for a list of tags) before it reads more than
// smallRead bytes. For a list, it takes one of hugeReads before it reads more than
// MaxManifest bytes.
type reader struct {
	registry *Registry
	list     bool            // the response is a list of tags
	held     []chan struct{} // the turns, in the order in which they are taken
}

// semaphores returns those of which a response may need a turn.
func (t *reader) semaphores() []chan struct{} {
	if t.list {
		return []chan struct{}{t.registry.listReads, t.registry.hugeReads}
	}
	return []chan struct{}{t.registry.largeReads}
}

// take waits for the next turn that is not held.
func (t *reader) take(ctx context.Context) error {
	next := t.semaphores()[len(t.held)]
	select {
	case next <- struct{}{}:
		t.held = append(t.held, next)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// takeAll waits for all turns.
func (t *reader) takeAll(ctx context.Context) error {
	for len(t.held) < len(t.semaphores()) {
		if err := t.take(ctx); err != nil {
			return err
		}
	}
	return nil
}

// release gives the turns back.
func (t *reader) release() {
	for _, turn := range t.held {
		<-turn
	}
	t.held = nil
}

// read reads body to its end.
func (t *reader) read(ctx context.Context, body io.Reader) ([]byte, error) {
	var content bytes.Buffer
	if _, err := io.CopyN(&content, body, smallRead); err == io.EOF {
		return content.Bytes(), nil
	} else if err != nil {
		return nil, err
	}
	for range t.semaphores() {
		if err := t.take(ctx); err != nil {
			return nil, err
		}
		limit := int64(MaxManifest + 2 - smallRead) // enough to see that a manifest is too large
		if len(t.held) > 1 {
			limit = math.MaxInt64
		}
		if _, err := io.CopyN(&content, body, limit); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
	}
	return content.Bytes(), nil
}

// isEncoded reports whether a body is not the content itself: its digest and
// length are then those of the encoded form.
func isEncoded(resp *http.Response) bool {
	return resp.Uncompressed || header.ContentCoding(resp) != ""
}

// discard closes a body after reading up to 4 KiB of it, so that the connection
// can be reused.
func discard(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 4<<10)
	_ = body.Close()
}
