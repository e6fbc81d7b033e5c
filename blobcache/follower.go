package blobcache

import (
	"context"
	"errors"
	"io"
)

// follower reads a spool from any offset while it grows. If the spool fails, it
// goes on with bytes from the source.
type follower struct {
	ctx    context.Context
	fill   *fill
	req    Request
	size   int64
	off    int64
	from   int64 // where the last Seek went
	parted bool  // parts of the content are read, and not the whole
	bypass *bypass
}

// reader turns a reference to the fill into a reader, after waiting for the
// source's answer, or releases it. The origin is Started for the request that
// started the fill, and for one that asked the source itself.
func (f *fill) reader(ctx context.Context, req Request, started bool) (*Reader, Origin, error) {
	origin := Joined
	if started {
		origin = Started
	}
	size, err := f.awaitSize(ctx)
	if errors.Is(err, errSpool) {
		if f.file == nil {
			// No spool could be created: the pull goes on without the cache.
			body, slot := f.takeHandOver(started)
			f.release()
			r, err := readBypass(ctx, f.cache, req, body, slot)
			return r, Started, err
		}
		err = nil // it failed on the way, and some of it is there
	}
	if err != nil {
		f.release()
		return nil, origin, err
	}
	// The end of the context, or Close, must wake a reader that waits for
	// bytes.
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, f.wake)
	return &Reader{source: &follower{ctx: ctx, fill: f, req: req, size: size}, cancel: cancel, size: size}, origin, nil
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

func (t *follower) Read(p []byte) (int, error) {
	if t.bypass != nil {
		return t.bypass.Read(p)
	}
	n, err := t.await()
	if err == nil {
		var read int
		read, err = t.fill.file.ReadAt(p[:min(int64(len(p)), n)], t.off)
		t.off += int64(read)
		if read > 0 {
			return read, nil
		}
		t.fill.cache.storageError("read spool of "+t.fill.digest.String(), err)
		err = errSpool
	}
	if !errors.Is(err, errSpool) {
		return 0, err
	}
	t.bypass = newBypass(t.ctx, t.fill.cache, t.req, t.size)
	t.bypass.spool, t.bypass.off, t.bypass.parted = t.fill, t.off, t.parted
	t.bypass.sent = sent{t.from, t.off}
	return t.bypass.Read(p)
}

// parts implements [Reader.Parts].
func (t *follower) parts() bool {
	if t.bypass != nil {
		return t.bypass.parts()
	}
	t.parted = !t.fill.exposed()
	return t.parted
}

// await waits for bytes that may be read.
func (t *follower) await() (n int64, err error) {
	n, err = t.fill.awaitBytes(t.ctx, t.off)
	if err == nil && t.parted && t.fill.exposed() {
		return 0, errPlain
	}
	return n, err
}

// next returns the next bytes without a copy if they are still in memory, or
// reads them into buf. The caller must call back when it has used them.
func (t *follower) next(buf []byte, most int64) (p []byte, back func(), err error) {
	if t.bypass == nil {
		if _, err := t.await(); err == nil {
			p, back = t.fill.lend(t.off, most)
		}
	}
	if p != nil {
		t.off += int64(len(p))
		return p, back, nil
	}
	n, err := t.Read(buf[:min(int64(len(buf)), most)])
	return buf[:n], func() {}, err
}

// Seek implements io.Seeker. [Reader] passes absolute offsets only.
func (t *follower) Seek(offset int64, _ int) (int64, error) {
	if offset != t.off {
		t.from = offset
	}
	t.off = offset
	if t.bypass != nil {
		return t.bypass.Seek(offset, io.SeekStart)
	}
	return offset, nil
}

func (t *follower) Close() error {
	t.fill.release()
	if t.bypass != nil {
		return t.bypass.Close()
	}
	return nil
}
