package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/breaker"
)

const (
	// A node that fails is left alone for firstPause, and twice as long after each
	// further failure, up to lastPause.
	firstPause = time.Second
	lastPause  = time.Minute

	// patience is the number of probes after which a node is reported that has never
	// answered: it may start at the same time as this one, as this one does.
	patience = 3

	// maxMisses is the number of probes in a row without an answer after which a node is
	// not asked any more. A single probe may fail because of a lost packet. Until then,
	// only the requests to the node find out that it is down.
	maxMisses = 2

	maxIdentity = 1 << 10 // bytes of the answer to a probe
)

// Node is an entry of the list of nodes. Its methods may be called concurrently. It
// remains the same value as long as the list has it.
type Node struct {
	name    string
	cluster *Cluster
	breaker breaker.Breaker
	passing *lru.Cache[passed, *breaker.Breaker] // see [Node.failed]

	mu      sync.Mutex
	process string    // the id of the process that answered one of the last maxMisses probes, or empty
	last    string    // the id of the last process that answered
	seen    time.Time // it answered
	err     error     // of the last probe
	misses  int       // probes without an answer since then
}

// Name returns the name of the node in the list, HOST:PORT.
func (n *Node) Name() string { return n.name }

// id returns the id of the node's process, or "" if the last probes failed.
func (n *Node) id() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process
}

// failure is an error of [Node.Get] that is already counted, as far as it says
// something about the node.
type failure struct {
	node string
	err  error
}

func (f *failure) Error() string { return "node " + f.node + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

var (
	errUnknown = errors.New("it has not answered yet")
	errRestart = errors.New("it does not accept the token; it may have restarted")
)

// Head asks the node for the header with which it answers Get, whose body is then empty.
func (n *Node) Head(ctx context.Context, ask Ask, header http.Header) (*http.Response, error) {
	return n.do(ctx, http.MethodHead, ask, header)
}

// Get asks the node for content. The header has what belongs to the request besides the
// token, such as Range and Accept. The body of the response must be closed; its status
// is 200, 204, 206 or 304.
//
// The error is an fs.ErrNotExist if the node does not provide the content (404), or has
// other settings of the upstream (409). While the node is unknown or left alone Get
// fails at once. Errors that say something about the node count as its failures, except
// for that of ctx. The caller must report by failed if the answer took too long, or if
// the body breaks off or is wrong.
func (n *Node) Get(ctx context.Context, ask Ask, header http.Header) (*http.Response, error) {
	return n.do(ctx, http.MethodGet, ask, header)
}

func (n *Node) do(ctx context.Context, method string, ask Ask, header http.Header) (*http.Response, error) {
	resp, err := n.try(ctx, method, ask, header)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("node %s: %w", n.name, ctx.Err())
		}
		return nil, &failure{n.name, err}
	}
	return resp, nil
}

func (n *Node) try(ctx context.Context, method string, ask Ask, header http.Header) (*http.Response, error) {
	l, process := n.cluster.current(), n.id()
	if l == nil || process == "" {
		return nil, errUnknown
	}
	if err := ask.check(); err != nil {
		return nil, err
	}
	ask.From = n.cluster.id
	text, err := json.Marshal(facts{n.cluster.site, ask})
	if err != nil {
		return nil, err
	}
	token, err := l.Issuer.MintPeer(ctx, process, string(text))
	if err != nil {
		return nil, err
	}
	passing := n.passingOn(passed{ask.Fingerprint, ask.Kind == Blob && method == http.MethodGet})
	if err := passing.Allow(); err != nil {
		return nil, err
	}
	if err := n.breaker.Allow(); err != nil {
		return nil, err
	}
	header = header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	header.Set("Authorization", "Bearer "+token)
	resp, err := l.send(ctx, method, n.name, ask.path(), header)
	if err != nil {
		if ctx.Err() == nil {
			n.note(&n.breaker, err)
		}
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusNoContent, http.StatusNotModified:
		n.succeeded(passing)
		return resp, nil
	case http.StatusOK, http.StatusPartialContent:
		if method == http.MethodHead {
			n.succeeded(passing)
			return resp, nil
		}
		resp.Body = &body{resp.Body, n, passing, resp.ContentLength}
		return resp, nil
	}
	_ = resp.Body.Close()
	return nil, n.refused(process, resp.StatusCode)
}

// refused returns the error for a status, and notes it if it is one of the node.
func (n *Node) refused(process string, status int) error {
	err := fmt.Errorf("it answers with status %d", status)
	switch status {
	case http.StatusNotFound, http.StatusConflict:
		n.succeeded(nil)
		return fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		n.succeeded(nil)
		return err // the fault of the upstream
	case http.StatusUnauthorized:
		err = errRestart
		n.mu.Lock()
		if n.process == process {
			n.process, n.err = "", err
		}
		n.mu.Unlock()
		n.cluster.probeSoon()
	}
	n.note(&n.breaker, err)
	return err
}

// probe asks the node who it is.
func (n *Node) probe(ctx context.Context, l *lent) {
	limited, cancel := context.WithTimeout(ctx, n.cluster.times.probe)
	defer cancel()
	process, err := l.probe(limited, n.name)
	if ctx.Err() != nil {
		return // the cluster ends
	}
	n.mu.Lock()
	before, last := n.process, n.last
	n.err = err
	if n.misses++; err == nil {
		n.process, n.last, n.seen, n.misses = process, process, n.cluster.now(), 0
	} else if n.misses >= maxMisses || errors.Is(err, errNoNode) {
		n.process = ""
	}
	misses, kept := n.misses, n.process != ""
	n.mu.Unlock()
	if err != nil && kept {
		n.cluster.probeSoon()
		return
	}
	if err == nil && process != last {
		n.breaker.Succeed() // another process has not failed yet
		n.passing.Purge()
	}
	switch logger := n.cluster.logger().With(zap.String("node", n.name)); {
	case err != nil && (before != "" || last == "" && misses == patience):
		logger.Warn("a node of the cluster does not answer; not asking it", zap.Error(err))
	case err == nil && before == "":
		logger.Info("a node of the cluster answers", zap.Bool("self", process == n.cluster.id))
	}
}

// body counts as a success of the node when it was read to its end, and not before: a
// node may fail midway.
type body struct {
	io.ReadCloser
	node    *Node
	passing *breaker.Breaker
	left    int64 // bytes, or -1 if the length is unknown
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	if b.left == 0 || errors.Is(err, io.EOF) {
		b.node.succeeded(b.passing)
	}
	return n, err
}

// send sends a request to the node with a name. It does not follow redirects.
func (l *lent) send(ctx context.Context, method, name, path string, header http.Header) (*http.Response, error) {
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, l.transport.replacer)
	u := &url.URL{Scheme: "https", Host: name, Path: path}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	header.Set("Accept-Encoding", "identity") // otherwise the site may compress its answers
	r.Header, r.Host = header, l.transport.serverName
	return l.transport.RoundTrip(r)
}

// probe returns the id of the process that answers for a node.
func (l *lent) probe(ctx context.Context, name string) (string, error) {
	resp, err := l.send(ctx, http.MethodGet, name, ProbePath, make(http.Header))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: it answers with status %d", errNoNode, resp.StatusCode)
	}
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media != "application/json" {
		return "", fmt.Errorf("%w: its answer is not JSON", errNoNode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxIdentity))
	if err != nil {
		return "", err
	}
	var who identity
	if json.Unmarshal(text, &who) != nil || !isProcess(who.ID) {
		return "", fmt.Errorf("%w: its answer has no id", errNoNode)
	}
	return who.ID, nil
}

var errNoNode = errors.New("the server is not a node of this site; check the list of nodes, and that the site has `peers` there")
