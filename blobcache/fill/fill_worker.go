package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
)

const (
	// A connection is slow if its rate over slowInterval is less than
	// 1/slowFactor of another one's. It is replaced, because readers that read
	// in order wait for its range.
	slowInterval = 3 * time.Second
	slowFactor   = 16

	// maxReplaced is how often a worker replaces a slow connection.
	maxReplaced = 2
)

var errSlowConnection = errors.New("the connection is far slower than others")

// errNoRanges means that the source does not serve ranges of the content that
// the fill began with.
var errNoRanges = errors.New("the source answered another range than was asked for")

// worker fetches segments of a fill, one after another.
type worker struct {
	fill    *fill
	next    *segment // that it holds already, or nil
	body    *Body    // open, or nil
	pos     int64    // of its next byte
	got     int64    // bytes for the spool, from all bodies
	retries retries
	speed   speed
}

// newWorker returns a worker that reads body, or asks the source if body is
// nil.
func newWorker(f *fill, body *Body) *worker {
	w := &worker{fill: f, body: body, retries: retries{meter: f.meter}}
	if body != nil {
		w.pos = body.Offset
		w.speed.restart()
	}
	return w
}

// run returns when there is nothing left to fetch, or when the source has
// failed too often. Other workers fetch what it leaves.
func (w *worker) run(ctx context.Context) error {
	defer w.drop()
	for {
		seg := w.fill.claim(w)
		if seg == nil {
			return nil
		}
		err := w.fetch(ctx, seg)
		at := seg.at
		w.fill.yield(seg)
		if err == nil || errors.Is(err, errNoRanges) {
			continue
		}
		w.drop()
		if errors.Is(err, errReplica) {
			continue
		}
		if err == errSlowConnection {
			w.fill.table.config.Hooks.resumed(w.fill.digest, at, err)
			continue
		}
		if final(err) || ctx.Err() != nil || !w.retries.again(ctx, w.got) {
			return err
		}
		w.fill.table.config.Hooks.resumed(w.fill.digest, at, err)
	}
}

// final reports whether asking the source again cannot help.
func final(err error) bool {
	return errors.Is(err, errSpool) || errors.Is(err, ErrDigestMismatch) || errors.Is(err, ErrAbandoned) || errors.Is(err, ErrTooSlow)
}

func (w *worker) drop() {
	if w.body != nil {
		_ = w.body.Close()
		w.body = nil
	}
}

// fetch downloads the rest of a segment into the spool.
func (w *worker) fetch(ctx context.Context, seg *segment) error {
	for {
		if w.body == nil || w.pos > seg.at || w.body.End > 0 && seg.at >= w.body.End {
			if err := w.ask(ctx, seg); err != nil {
				return err
			}
		}
		n, err := w.retries.skip(w.body, w.pos, seg.at)
		if w.pos += n; err != nil {
			return err
		}
		if whole, err := w.copy(ctx, seg); whole || err != nil {
			return err
		}
	}
}

// ask opens a body that contains the segment's next byte.
func (w *worker) ask(ctx context.Context, seg *segment) error {
	w.drop()
	f := w.fill
	etag, alone := f.asking(w)
	length := seg.end - seg.at
	if alone {
		length = -1
	}
	body, err := fetch(ctx, f.req, f.meter, seg.at, length, etag)
	if err != nil {
		return err
	}
	if err := body.continues(seg.at, f.size); err != nil {
		_ = body.Close()
		if f.withoutRanges(w); f.req.replicas.misled() {
			err = fmt.Errorf("%w: %w", ErrDigestMismatch, err) // the fill may begin anew
		}
		return err
	}
	w.body, w.pos = body, body.Offset
	f.notePlain(body)
	w.speed.restart()
	changed := body.ETag != "" && etag != "" && body.ETag != etag
	if alone {
		f.answeredBy(body)
		return nil
	}
	if changed || body.Offset != seg.at || body.End == 0 {
		// The single remaining worker can use the body all the same.
		if !f.withoutRanges(w) {
			w.drop()
		}
		return errNoRanges
	}
	setIdleTimeout(body, w.retries.stall(w.got))
	return nil
}

// copy copies bytes from the body to the spool until the segment is whole or
// the body has ended where it said it would.
func (w *worker) copy(ctx context.Context, seg *segment) (whole bool, err error) {
	buf := buffer.Take(false)
	defer func() { buf.Release() }()
	f := w.fill
	for {
		room := buf.B
		if left := seg.end - seg.at; seg.end != f.size && left < int64(len(room)) {
			if room = room[:left]; left == 0 {
				return true, nil // what follows is not asked for, or there already
			}
		}
		n, err := w.body.Read(room)
		w.pos += int64(n)
		if n > 0 {
			if seg.at+int64(n) > seg.end {
				return false, fmt.Errorf("the source sent more than its %d bytes: %w", f.size, ErrDigestMismatch)
			}
			var werr error
			if buf, werr = f.keepBytes(ctx, seg, buf, n); werr != nil {
				return false, fmt.Errorf("%w: %w", errSpool, werr)
			}
			w.got += int64(n)
			w.retries.repeated = 0
		}
		if err == nil && seg.at < seg.end && f.tooSlow(w, n) {
			return false, errSlowConnection
		}
		switch {
		case err == nil:
		case seg.at == seg.end:
			return true, nil // however the source ends; the digest decides
		case err == io.EOF && w.body.End > 0 && w.pos >= w.body.End:
			return false, nil
		case err == io.EOF && f.size < 0:
			f.finish(seg)
			return true, nil
		case err == io.EOF:
			return false, fmt.Errorf("after %d of %d bytes: %w", w.pos, f.size, io.ErrUnexpectedEOF)
		default:
			return false, err
		}
	}
}

// speed measures the rate of a worker's connection.
type speed struct {
	since    time.Time
	bytes    int64
	replaced int // connections
}

func (p *speed) restart() { p.since, p.bytes = time.Now(), 0 }

// tooSlow counts bytes of a worker's connection, and reports whether the
// connection should be replaced.
func (f *fill) tooSlow(w *worker, n int) bool {
	p := &w.speed
	p.bytes += int64(n)
	took := time.Since(p.since)
	if took < slowInterval {
		return false
	}
	rate := float64(p.bytes) / took.Seconds()
	p.restart()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.best = max(f.best, rate)
	if f.single == w || rate*slowFactor > f.best || p.replaced == maxReplaced {
		return false
	}
	p.replaced++
	return true
}
