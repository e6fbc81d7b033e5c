package blobcache

import (
	"context"
	"errors"
	"io"
)

// tail reads a spool from any offset while it grows. If the spool fails it goes
// on with bytes straight from the source.
type tail struct {
	ctx    context.Context
	fill   *fill
	req    Request
	size   int64
	off    int64
	from   int64 // where the last Seek went
	parted bool  // parts of the content are read, and not the whole
	direct *direct
}

// reader turns a reference to the fill into a reader, waiting for the source's
// answer, or gives the reference up. The leader's origin is Led, and so is that
// of whoever had to ask for himself.
func (f *fill) reader(ctx context.Context, req Request, led bool) (*Reader, Origin, error) {
	origin := Joined
	if led {
		origin = Led
	}
	size, err := f.awaitSize(ctx)
	if errors.Is(err, errSpool) {
		if f.file == nil {
			// There is nowhere to spool: the pull goes on without a cache.
			body, slot := f.hand(led)
			f.letGo()
			r, err := readDirect(ctx, f.cache, req, body, slot)
			return r, Led, err
		}
		err = nil // it failed on the way, and some of it is there
	}
	if err != nil {
		f.letGo()
		return nil, origin, err
	}
	// The context's end, or Close, must find a reader that waits for bytes.
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, f.wake)
	return &Reader{source: &tail{ctx: ctx, fill: f, req: req, size: size}, cancel: cancel, size: size}, origin, nil
}

// hand gives the leader the body that the fill has no room for, with the slot.
// The others must not have it: it was fetched with another authority, perhaps.
func (f *fill) hand(led bool) (*Body, *slot) {
	if !led {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	body, slot := f.handed, f.slot
	f.handed, f.slot = nil, nil
	return body, slot
}

func (t *tail) Read(p []byte) (int, error) {
	if t.direct != nil {
		return t.direct.Read(p)
	}
	n, err := t.await()
	if err == nil {
		var read int
		read, err = t.fill.file.ReadAt(p[:min(int64(len(p)), n)], t.off)
		t.off += int64(read)
		if read > 0 {
			return read, nil
		}
		t.fill.cache.trouble("read spool of "+t.fill.digest.String(), err)
		err = errSpool
	}
	if !errors.Is(err, errSpool) {
		return 0, err
	}
	t.direct = newDirect(t.ctx, t.fill.cache, t.req, t.size)
	t.direct.spool, t.direct.off, t.direct.parted = t.fill, t.off, t.parted
	t.direct.sent = sent{t.from, t.off}
	return t.direct.Read(p)
}

// parts is [Reader.Parts].
func (t *tail) parts() bool {
	if t.direct != nil {
		return t.direct.parts()
	}
	t.parted = !t.fill.exposed()
	return t.parted
}

// await waits for bytes that may be read.
func (t *tail) await() (n int64, err error) {
	n, err = t.fill.awaitBytes(t.ctx, t.off)
	if err == nil && t.parted && t.fill.exposed() {
		return 0, errPlain
	}
	return n, err
}

// next waits for what comes next and returns it without a copy, if it is still in
// memory, else reads it into buf. It is to be given back.
func (t *tail) next(buf []byte, most int64) (p []byte, back func(), err error) {
	if t.direct == nil {
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
func (t *tail) Seek(offset int64, _ int) (int64, error) {
	if offset != t.off {
		t.from = offset
	}
	t.off = offset
	if t.direct != nil {
		return t.direct.Seek(offset, io.SeekStart)
	}
	return offset, nil
}

func (t *tail) Close() error {
	t.fill.letGo()
	if t.direct != nil {
		return t.direct.Close()
	}
	return nil
}
