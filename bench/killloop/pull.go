package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/bench/registry"
)

const password = "killer"

// window is the number of newest images from which clients choose.
const window = 8

// tally counts the outcomes of pulls.
type tally struct {
	mu           sync.Mutex
	whole, parts int // complete bodies
	hits         int // complete bodies from the cache
	bytes        int64
	broken, left int      // interrupted by a kill, abandoned by the client
	wrong        int      // with wrong bytes
	failed       int      // without a kill
	examples     []string // of wrong and failed pulls
}

var (
	errWrong = errors.New("wrong bytes")
	errLeft  = errors.New("the client has left")
)

// outcome describes a pull that has ended.
type outcome struct {
	whole, hit bool
	bytes      int64
}

// add counts a pull. If killed is true, a kill may explain its error.
func (t *tally) add(got outcome, err error, killed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes += got.bytes
	switch {
	case errors.Is(err, errWrong):
		t.wrong++
	case errors.Is(err, errLeft):
		t.left++
	case err != nil && killed:
		t.broken++
	case err != nil:
		t.failed++
	case got.whole:
		t.whole++
	default:
		t.parts++
	}
	if err == nil && got.hit {
		t.hits++
	}
	if (errors.Is(err, errWrong) || err != nil && !killed && !errors.Is(err, errLeft)) && len(t.examples) < 20 {
		t.examples = append(t.examples, err.Error())
	}
}

// pull starts clients that pull until stop is called, which also kills Caddy.
func (l *loop) pull(caddy *process) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for range l.clients {
		r := rand.New(rand.NewPCG(l.rand.Uint64(), 0))
		group.Go(func() {
			for ctx.Err() == nil && !caddy.killed() {
				if r.IntN(8) == 0 {
					l.newest.Add(1)
				}
				got, err := l.pullPart(ctx, l.recent(r.IntN(window)), r)
				l.tally.add(got, err, err != nil && caddy.mayExplainFailure())
			}
		})
	}
	return func() {
		caddy.kill()
		cancel()
		group.Wait()
		client.CloseIdleConnections()
	}
}

// recent returns the number of the image that is the given number of images older
// than the newest one.
func (l *loop) recent(ago int) int { return max(0, int(l.newest.Load())-ago) }

// pullPart pulls the manifest of image n and a random part of its large layer.
func (l *loop) pullPart(ctx context.Context, n int, r *rand.Rand) (outcome, error) {
	im, err := l.manifest(ctx, n)
	if err != nil {
		return outcome{}, err
	}
	from, to, span := int64(0), im.Size, ""
	switch r.IntN(6) {
	case 0:
		from = r.Int64N(im.Size)
		span = fmt.Sprintf("bytes=%d-", from)
	case 1:
		from = im.Size - 1 - r.Int64N(im.Size)
		span = fmt.Sprintf("bytes=-%d", im.Size-from)
	case 2:
		from = r.Int64N(im.Size)
		to = min(im.Size, from+1+r.Int64N(1<<20))
		span = fmt.Sprintf("bytes=%d-%d", from, to-1)
	}
	p := part{im: im, from: from, to: to, span: span, leaveAt: to}
	switch r.IntN(8) {
	case 0:
		p.leaveAt = from + r.Int64N(to-from)
	case 1:
		p.pause = 2 * time.Millisecond
	}
	return l.blob(ctx, p)
}

// pullAll pulls the newest images completely, each with several clients.
func (l *loop) pullAll(caddy *process) {
	var group sync.WaitGroup
	for i := range 3 * window {
		group.Go(func() {
			im, err := l.manifest(context.Background(), l.recent(i%window))
			var got outcome
			if err == nil {
				got, err = l.blob(context.Background(), part{im: im, to: im.Size, leaveAt: im.Size})
			}
			l.tally.add(got, err, err != nil && caddy.mayExplainFailure())
		})
	}
	group.Wait()
}

// get requests a path below the repository, and checks the status.
func (l *loop) get(ctx context.Context, path, span string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.address+"/v2/acme/dependency_proxy/containers/bench/"+path, nil)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth("killer", password)
	want := http.StatusOK
	if span != "" {
		req.Header.Set("Range", span)
		want = http.StatusPartialContent
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != want {
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, errors.Join(fmt.Errorf("%s %s: %s: %s", path, span, resp.Status, body), err)
	}
	return resp, nil
}

// manifest pulls the manifest of image n and compares it.
func (l *loop) manifest(ctx context.Context, n int) (*registry.Image, error) {
	resp, err := l.get(ctx, "manifests/"+strconv.Itoa(n), "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("manifest %d: %w", n, err)
	}
	im := l.upstream.Image(n)
	if !bytes.Equal(body, im.Manifest) {
		return nil, fmt.Errorf("manifest %d: %w", n, errWrong)
	}
	return im, nil
}

// part describes the part of a blob that a client requests, and its behavior.
type part struct {
	im       *registry.Image
	from, to int64
	span     string        // the Range header, "" for the whole blob
	leaveAt  int64         // the offset at which the client leaves, or to
	pause    time.Duration // after each read
}

// blob reads a body and compares it with the content of the image.
func (l *loop) blob(ctx context.Context, p part) (outcome, error) {
	got := outcome{whole: p.span == ""}
	resp, err := l.get(ctx, "blobs/"+p.im.Digest, p.span)
	if err != nil {
		return got, err
	}
	defer resp.Body.Close()
	got.hit = strings.HasSuffix(resp.Header.Get("Cache-Status"), "; hit")
	here := fmt.Sprintf("%s %s", p.im.Digest, p.span)
	if resp.ContentLength != p.to-p.from {
		return got, fmt.Errorf("%s: got Content-Length %d, want %d: %w", here, resp.ContentLength, p.to-p.from, errWrong)
	}
	hash := sha256.New()
	buf, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for off := p.from; ; {
		n, err := resp.Body.Read(buf)
		_, _ = p.im.ReadAt(want[:n], off) // the body is not longer than its Content-Length
		if !bytes.Equal(buf[:n], want[:n]) {
			return got, fmt.Errorf("%s: after %d bytes of %s: %w", here, off-p.from, resp.Header.Get("Cache-Status"), errWrong)
		}
		hash.Write(buf[:n])
		off += int64(n)
		got.bytes += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return got, fmt.Errorf("%s: after %d of %d bytes: %w", here, off-p.from, p.to-p.from, err)
		}
		if off >= p.leaveAt && p.leaveAt < p.to {
			return got, errLeft
		}
		time.Sleep(p.pause)
	}
	if got.whole && "sha256:"+hex.EncodeToString(hash.Sum(nil)) != p.im.Digest {
		return got, fmt.Errorf("%s: the body does not match the digest: %w", here, errWrong)
	}
	return got, nil
}
