package fill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
)

// Follower reads a spool from any offset while it grows. If the spool fails, it
// goes on with bytes from the source.
type Follower struct {
	ctx    context.Context
	cancel context.CancelFunc
	fill   *fill // nil if there was no spool from the start
	req    Request
	size   int64 // announced to the reader, or -1
	off    int64
	from   int64 // where the last Seek went
	parted bool  // parts of the content are read, and not the whole
	bypass *bypass
}

// reader turns a reference to the fill into a reader, after waiting for the
// source's answer, or releases it. The origin is Started for the request that
// started the fill, and for one that asked the source itself.
func (f *fill) reader(ctx context.Context, req Request, started bool) (*Follower, Origin, error) {
	origin := Joined
	if started {
		origin = Started
	}
	size, err := f.awaitSize(ctx, req.expected())
	if errors.Is(err, errSpool) {
		if f.file == nil {
			// No spool could be created: the pull goes on without the cache.
			body, slot := f.takeHandOver(started)
			f.release()
			b, err := readBypass(ctx, f.table, req, body, slot)
			if err != nil {
				return nil, Started, err
			}
			return &Follower{ctx: ctx, cancel: func() { b.stop(nil) }, req: req, size: b.size, bypass: b}, Started, nil
		}
		err = nil // it failed on the way, and some of it is there
	}
	if err != nil {
		f.release()
		return nil, origin, err
	}
	if size < 0 {
		size = req.expected()
	}
	// The end of the context, or Close, must wake a reader that waits for
	// bytes.
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, f.wake)
	return &Follower{ctx: ctx, cancel: cancel, fill: f, req: req, size: size}, origin, nil
}

// takeHandOver returns the body for which the fill has no room, with its slot,
// to the request that started the fill. Other requests must not have it, since
// it was fetched with that request's authority.
func (f *fill) takeHandOver(started bool) (*Body, *slot) {
	if !started {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	body, slot := f.handOver, f.slot
	f.handOver, f.slot = nil, nil
	return body, slot
}

func (t *Follower) Read(p []byte) (int, error) {
	if t.bypass != nil {
		return t.bypass.Read(p)
	}
	n, err := t.await(true)
	if err == nil {
		var read int
		read, err = t.fill.file.ReadAt(p[:min(int64(len(p)), n)], t.off)
		t.off += int64(read)
		if read > 0 {
			return read, nil
		}
		t.fill.table.config.Hooks.storageError("read spool of "+t.fill.digest.String(), err)
		err = errSpool
	}
	if !errors.Is(err, errSpool) {
		return 0, err
	}
	t.leaveSpool()
	return t.bypass.Read(p)
}

// leaveSpool makes the reader go on without the spool, which has failed.
func (t *Follower) leaveSpool() {
	t.bypass = newBypass(t.ctx, t.fill.table, t.req, t.size)
	t.bypass.spool, t.bypass.off, t.bypass.parted = t.fill, t.off, t.parted
	t.bypass.sent = sent{t.from, t.off}
}

// AwaitByte waits until the next byte can be read, or until the end of the content.
// The error is the one that a Read would return.
func (t *Follower) AwaitByte() error {
	if t.bypass == nil {
		_, err := t.await(false)
		if err == nil || err == io.EOF {
			return nil
		}
		if !errors.Is(err, errSpool) {
			return err
		}
		t.leaveSpool()
	}
	return t.bypass.awaitByte()
}

// Size returns the size of the content in bytes, or -1 if it is not known. It is
// the size that the source tells, or without one, the size that the request
// expects. If the content turns out to have another size, reads fail with an error
// that is [ErrSizeMismatch] before the last byte of that size.
func (t *Follower) Size() int64 { return t.size }

// FromReplica reports whether all that has come so far has come from peers or replicas.
func (t *Follower) FromReplica() (alone bool) {
	_, alone = t.replicas().answered()
	return alone
}

// FromPeer reports whether some of what has come so far has come from a peer.
func (t *Follower) FromPeer() bool { return t.replicas().ofPeer() }

// replicas returns the peers and replicas that have been asked.
func (t *Follower) replicas() *replicas {
	if t.fill != nil {
		return t.fill.req.replicas
	}
	return t.bypass.req.replicas
}

// Cancel ends reads that wait for bytes.
func (t *Follower) Cancel() { t.cancel() }

// AwaitWhole waits until the whole content is verified and returns its size. It
// does not wait for content that cannot be stored: the size is then the one that
// the source announced, or the error is [ErrUnconfirmed] if a [Body.Plain]
// announced it.
func (t *Follower) AwaitWhole(ctx context.Context) (size int64, err error) {
	exposed := false
	if t.fill == nil {
		exposed = t.bypass.source.plain
	} else {
		if size, err = t.fill.awaitEnd(ctx); err == nil {
			return size, nil
		}
		if exposed = t.fill.exposed(); !errors.Is(err, errSpool) {
			return t.size, err
		}
	}
	if exposed {
		return t.size, ErrUnconfirmed
	}
	return t.size, nil
}

// Parts announces that ranges of the content will be read, and reports whether
// they may be. They may not while some of the content is [Body.Plain], or comes from
// a peer or a replica, and the whole is not verified, unless the request [Request.Verifies].
func (t *Follower) Parts() bool {
	if t.req.Verifies {
		return true
	}
	if t.bypass != nil {
		return t.bypass.parts()
	}
	t.parted = !t.fill.exposed()
	return t.parted
}

// await waits for bytes that may be read, and returns their number. The caller sets take
// if it will read them.
func (t *Follower) await(take bool) (n int64, err error) {
	n, err = t.fill.awaitBytes(t.ctx, t.off, t.size, take)
	if err == nil && t.parted && t.fill.exposed() {
		return 0, errPlain
	}
	return n, err
}

// Next returns the next bytes without a copy if they are still in memory, or
// reads them into buf. The caller must call back when it has used them.
func (t *Follower) Next(buf []byte, most int64) (p []byte, back func(), err error) {
	if t.bypass == nil {
		if n, err := t.await(true); err == nil {
			p, back = t.fill.lend(t.off, min(most, n))
		}
	}
	if p != nil {
		t.off += int64(len(p))
		return p, back, nil
	}
	n, err := t.Read(buf[:min(int64(len(buf)), most)])
	return buf[:n], func() {}, err
}

// Seek implements io.Seeker. The caller passes absolute offsets only.
func (t *Follower) Seek(offset int64, _ int) (int64, error) {
	if offset != t.off {
		t.from = offset
	}
	t.off = offset
	if t.bypass != nil {
		return t.bypass.Seek(offset, io.SeekStart)
	}
	return offset, nil
}

func (t *Follower) Close() error {
	if t.fill != nil {
		t.fill.release()
	}
	if t.bypass != nil {
		return t.bypass.Close()
	}
	return nil
}

// sent is the range of bytes that a reader got from a spool since its last
// Seek. If the spool fails, its digest is never checked, so a transfer that the
// reader goes on with must bring the same bytes.
type sent struct {
	from, to int64
}

// check returns an error if the bytes p of another transfer, at offset at,
// differ from those sent, or if the spool cannot be read to compare them.
func (s sent) check(spool *fill, p []byte, at int64) error {
	from, to := max(at, s.from), min(at+int64(len(p)), s.to)
	if from >= to || spool.verified() {
		return nil
	}
	had := buffer.Take(false)
	defer had.Release()
	b := had.B[:to-from]
	if _, err := spool.file.ReadAt(b, from); err != nil {
		return fmt.Errorf("the bytes sent from %d to %d cannot be verified: %w", from, to, err)
	}
	if !bytes.Equal(b, p[from-at:to-at]) {
		return fmt.Errorf("the source sends other bytes from %d to %d than before: %w", from, to, ErrDigestMismatch)
	}
	return nil
}
