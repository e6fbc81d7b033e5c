package blobcache

import (
	"context"
	"errors"
	"io"
)

// follower reads a spool from any offset while it grows. If the spool fails it goes
// on with bytes straight from the source.
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

// reader turns a reference to the fill into a reader, waiting for the source's
// answer, or gives the reference up. The leader's origin is Started, and so is that
// of whoever had to ask for himself.
func (f *fill) reader(ctx context.Context, req Request, led bool) (*Reader, Origin, error) {
	origin := Joined
	if led {
		origin = Started
	}
	size, err := f.awaitSize(ctx)
	if errors.Is(err, errSpool) {
		if f.file == nil {
			// There is nowhere to spool: the pull goes on without a cache.
			body, slot := f.takeHandOver(led)
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
	// The context's end, or Close, must find a reader that waits for bytes.
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, f.wake)
	return &Reader{source: &follower{ctx: ctx, fill: f, req: req, size: size}, cancel: cancel, size: size}, origin, nil
}

// takeHandOver gives the leader the body that the fill has no room for, with the slot.
// The others must not have it: it was fetched with another authority, perhaps.
func (f *fill) takeHandOver(led bool) (*Body, *slot) {
	if !led {
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

// parts is [Reader.Children].
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

// next waits for what comes next and returns it without a copy, if it is still in
// memory, else reads it into buf. It is to be given back.
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

// Seek needs no size: [Reader] turns all offsets into absolute ones.
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
