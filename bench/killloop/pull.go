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

// window is how many images are pulled at a time.
const window = 8

// tally counts what became of the pulls.
type tally struct {
	mu           sync.Mutex
	whole, parts int // complete bodies
	hits         int // of them out of the cache
	bytes        int64
	broken, left int
	wrong        int
	failed       int // without a kill
	examples     []string
}

var (
	errWrong = errors.New("wrong bytes")
	errLeft  = errors.New("the client has left")
)

// outcome is a pull that has ended.
type outcome struct {
	whole, hit bool
	bytes      int64
}

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

// pull has clients pull until stop is called.
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
				l.tally.add(got, err, err != nil && caddy.diesNow())
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

// recent is the image that was new so many images ago.
func (l *loop) recent(ago int) int { return max(0, int(l.newest.Load())-ago) }

// pullPart pulls a manifest and what the dice say of its large blob.
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

// pullAll has several clients pull all that was pulled last, whole.
func (l *loop) pullAll(caddy *process) {
	var group sync.WaitGroup
	for i := range 3 * window {
		group.Go(func() {
			im, err := l.manifest(context.Background(), l.recent(i%window))
			var got outcome
			if err == nil {
				got, err = l.blob(context.Background(), part{im: im, to: im.Size, leaveAt: im.Size})
			}
			l.tally.add(got, err, err != nil && caddy.diesNow())
		})
	}
	group.Wait()
}

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

// part is what a client wants of a blob, and how it behaves.
type part struct {
	im       *registry.Image
	from, to int64
	span     string
	leaveAt  int64
	pause    time.Duration
}

// blob reads a body to its end and compares it as it comes.
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
		return got, fmt.Errorf("%s: %d bytes are announced instead of %d: %w", here, resp.ContentLength, p.to-p.from, errWrong)
	}
	hash := sha256.New()
	buf, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for off := p.from; ; {
		n, err := resp.Body.Read(buf)
		_, _ = p.im.ReadAt(want[:n], off) // there is no more than was announced
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
		return got, fmt.Errorf("%s: the body has another digest: %w", here, errWrong)
	}
	return got, nil
}
