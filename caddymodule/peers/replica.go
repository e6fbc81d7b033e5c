package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// Use makes the pulls from a repository ask the nodes first. The scope has what is the same
// for all of its content. If the process asker has sent the request, no other node is asked
// in turn. Use does nothing if c is nil.
func (c *Cluster) Use(config *pullthrough.Config, scope Ask, asker string) {
	switch {
	case c == nil:
	case asker != "":
		config.OfPeer = func(peer fill.Replica, answered bool) bool {
			r, ok := peer.(*replica)
			return ok && pullthrough.Circular(asker, c.id, r.node.id(), answered)
		}
	default:
		known, name := config.Index, config.Scope
		config.Peers = func(key string) (peers []pullthrough.Peer) {
			scope := scope
			scope.Purged = known.PurgedAt(name)
			for _, n := range c.Ahead(key) {
				peers = append(peers, &replica{node: n, scope: scope})
			}
			return peers
		}
	}
}

// replica is a node as one repository asks it. It implements [pullthrough.Peer].
type replica struct {
	node    *Node
	scope   Ask
	fetched atomic.Bool // the node is asked for the content of a blob
}

// Failed implements [fill.Replica].
func (r *replica) Failed(_ digest.Digest, err error) {
	r.node.failed(passed{r.scope.Fingerprint, r.fetched.Load()}, err)
}

// Fetch implements [fill.Replica].
func (r *replica) Fetch(ctx context.Context, d digest.Digest, offset, _ int64) (*fill.Body, error) {
	r.fetched.Store(true)
	header := make(http.Header)
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := r.node.Get(ctx, r.ask(ctx, Blob, d.String(), header), header)
	if err != nil {
		return nil, err
	}
	body := &fill.Body{ReadCloser: resp.Body, Offset: offset, Size: offset + resp.ContentLength}
	switch {
	case resp.ContentLength < 0:
		err = fmt.Errorf("the size of %s is not known: %w", d, fs.ErrNotExist)
	case resp.StatusCode == http.StatusPartialContent:
		var first, last int64
		if _, err = fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &body.Size); err == nil && (first != offset || last != body.Size-1 || body.Size-offset != resp.ContentLength) {
			err = fmt.Errorf("sends the range %q instead of all from %d on", resp.Header.Get("Content-Range"), offset)
		}
	case resp.StatusCode != http.StatusOK || offset > 0:
		err = fmt.Errorf("answers with status %d to a request for all from %d on", resp.StatusCode, offset)
	}
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return body, nil
}

// ask returns what the node is asked, and adds to the header what the request of ctx passes
// on.
func (r *replica) ask(ctx context.Context, kind Kind, reference string, header http.Header) Ask {
	upstream.SetVia(ctx, header)
	ask := r.scope
	ask.Kind, ask.Reference = kind, reference
	return ask
}

// Ask implements [pullthrough.Peer].
func (r *replica) Ask(ctx context.Context, q pullthrough.Question) (pullthrough.Answer, error) {
	header := make(http.Header)
	if q.Accept != 0 {
		header.Set("Accept", q.Accept.Header())
	}
	if q.Forced {
		header.Set("Cache-Control", "no-cache")
	}
	if q.Known != "" {
		header.Set("If-None-Match", `"`+q.Known.String()+`"`)
	}
	send, kind := r.node.Get, Manifest
	if q.Head {
		send = r.node.Head
	}
	if q.Blob {
		kind = Blob
	}
	resp, err := send(ctx, r.ask(ctx, kind, q.Reference, header), header)
	if err != nil {
		return pullthrough.Answer{}, err
	}
	defer resp.Body.Close()
	return readAnswer(resp, q)
}

// readAnswer returns the answer in a response.
func readAnswer(resp *http.Response, q pullthrough.Question) (answer pullthrough.Answer, err error) {
	if answer.Digest, err = reference.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err != nil {
		return answer, fmt.Errorf("the digest of the answer: %w", err)
	}
	answer.Age, answer.First = ageOf(resp.Header), isFirst(resp.Header)
	answer.MediaType, _, _ = mime.ParseMediaType(resp.Header.Get("Content-Type"))
	answer.Size = resp.ContentLength
	switch {
	case resp.StatusCode == http.StatusNotModified && answer.Digest == q.Known, resp.StatusCode == http.StatusOK && q.Head:
		return answer, nil
	case resp.StatusCode != http.StatusOK:
		return answer, fmt.Errorf("answers with status %d to a question about a manifest", resp.StatusCode)
	case answer.Size > upstream.MaxManifest:
		return answer, errors.New("sends a manifest that is too large")
	}
	answer.Content, err = io.ReadAll(io.LimitReader(resp.Body, upstream.MaxManifest))
	return answer, err
}

// ageOf returns at least the time since upstream confirmed an answer: the header Age is in
// whole seconds. An answer for which the node has just asked upstream has none.
func ageOf(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Age"), 10, 31)
	switch {
	case err == nil:
	case h.Get("Age") == "" && isFirst(h):
	default:
		return pullthrough.Forever
	}
	return time.Duration(seconds)*time.Second + pullthrough.MinAge
}

// isFirst reports whether the node knew nothing before, and has asked upstream for this
// answer.
func isFirst(h http.Header) bool { return strings.Contains(h.Get("Cache-Status"), "fwd=miss") }
