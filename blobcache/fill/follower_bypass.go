package fill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
)

// bypass reads content from its source without the cache, for use when the disk
// cannot hold a spool. As in a fill, the last byte is delivered only if the digest
// matches. Therefore it always begins at the first byte, whatever the offset.
type bypass struct {
	ctx      context.Context
	stop     context.CancelCauseFunc // of ctx
	slots    *slots
	slot     *slot // for the transfer, nil until it begins
	meter    *meter
	req      Request
	size     int64 // announced to the reader; -1 if it was not known
	spool    *fill // that failed with some of the bytes in it, or nil
	sent     sent  // what the reader has of those
	source   *resuming
	ahead    *bufio.Reader
	hash     hash.Hash
	pos      int64 // of the next byte from ahead
	off      int64 // of the next byte for the reader
	parted   bool  // the reader reads ranges and not the whole
	verified bool
	err      error // of the last read; reads return it until a Seek to another offset
}

// newBypass returns a bypass that has not asked the source yet.
func newBypass(ctx context.Context, t *Table, req Request, size int64) *bypass {
	d := &bypass{slots: t.slots, req: req, size: size}
	d.ctx, d.stop = context.WithCancelCause(ctx)
	d.meter = newMeter(&d.req, d.stop, nil)
	return d
}

// readBypass returns a bypass that asks the source, or goes on with an answer
// if there is one. It takes a slot unless the caller passes one.
func readBypass(ctx context.Context, t *Table, req Request, answer *Body, taken *slot) (*bypass, error) {
	if taken == nil {
		var err error
		if taken, err = t.slots.take(&req); err != nil {
			return nil, err
		}
	}
	d := newBypass(ctx, t, req, req.Size)
	d.slot = taken
	if answer != nil {
		attach(d.ctx, answer, d.meter)
	}
	if err := d.open(answer); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// open starts again with a body from the first byte on: the given one, the
// bytes of the failed spool, or a new one from the source.
func (d *bypass) open(body *Body) (err error) {
	d.closeSource()
	if d.slot == nil {
		// The reader has had an answer, so it cannot be told to try again
		// later.
		ctx, cancel := context.WithTimeout(d.ctx, d.meter.limits.Stall)
		defer cancel()
		if d.slot, err = d.slots.await(ctx, &d.req); err != nil {
			return err
		}
	}
	if body == nil {
		body = d.spooled()
	}
	if body == nil {
		if body, err = fetch(d.ctx, d.req, d.meter, 0, -1, ""); err != nil {
			return err
		}
	}
	if d.size < 0 {
		d.size = body.Size
	}
	if d.size < 0 {
		d.size = d.req.expected()
	}
	if body.Size >= 0 && body.Size != d.size || d.size == 0 && !isEmpty(d.req.Digest) || body.Offset > 0 {
		_ = body.Close()
		return fmt.Errorf("the source has %d bytes from %d on instead of %d: %w", body.Size, body.Offset, d.size, ErrDigestMismatch)
	}
	d.source = resume(d.ctx, d.req, d.meter, d.size, body)
	d.ahead = bufio.NewReaderSize(d.source, buffer.Small)
	d.hash, d.pos, d.verified = d.req.Digest.Algorithm().Hash(), 0, false
	return nil
}

// spooled returns the bytes that the failed spool has, so that the source need
// not send them again.
func (d *bypass) spooled() *Body {
	if d.spool == nil {
		return nil
	}
	d.spool.mu.Lock()
	defer d.spool.mu.Unlock()
	have := d.spool.segments.has(0)
	if have == 0 {
		return nil
	}
	section := io.NewSectionReader(d.spool.file, 0, have)
	return &Body{ReadCloser: io.NopCloser(section), Size: d.spool.size, End: have, ETag: d.spool.etag, Plain: d.spool.plain}
}

func (d *bypass) Read(p []byte) (n int, err error) {
	if d.err != nil {
		return 0, d.err
	}
	if n, err = d.read(p); err != nil && err != io.EOF {
		d.failed(err)
	}
	return n, err
}

// failed keeps an error for later reads, and tells the replicas whose bytes do not match.
func (d *bypass) failed(err error) {
	if d.err = err; errors.Is(err, ErrDigestMismatch) {
		d.req.replicas.mismatched(err)
		if d.spool != nil {
			d.spool.req.replicas.mismatched(err)
		}
	}
}

func (d *bypass) read(p []byte) (int, error) {
	if err := d.ready(); err != nil {
		return 0, err
	}
	n, err := d.next(p)
	d.off += int64(n)
	return n, err
}

// awaitByte implements [Follower.AwaitByte].
func (d *bypass) awaitByte() error {
	if d.err == nil {
		err := d.ready()
		if err == nil {
			err = d.peek()
		}
		if err != nil {
			d.failed(err)
		}
	}
	return d.err
}

// ready makes the reader's next byte the next one from the source.
func (d *bypass) ready() error {
	if d.source == nil || d.off < d.pos {
		if err := d.open(nil); err != nil {
			return err
		}
	}
	return d.skip()
}

// skip reads and checks the bytes before the reader's offset.
func (d *bypass) skip() error {
	if d.pos == d.off {
		return nil
	}
	buf := buffer.Take(false)
	defer buf.Release()
	for d.pos < d.off {
		at := d.pos
		n, err := d.next(buf.B[:min(buffer.Small, d.off-at)])
		if err == nil {
			err = d.sent.check(d.spool, buf.B[:n], at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next reads bytes from the source and holds back the last one until the source
// has ended with the promised size and the right digest.
func (d *bypass) next(p []byte) (n int, err error) {
	if err := d.peek(); err != nil {
		return 0, err
	}
	if !d.verified {
		room := int64(d.ahead.Buffered() - 1)
		if d.size >= 0 {
			room = min(room, d.size-1-d.pos)
		}
		n, err = d.ahead.Read(p[:min(int64(len(p)), room)])
		d.hash.Write(p[:n])
		d.pos += int64(n)
		return n, err
	}
	if d.ahead.Buffered() == 0 {
		return 0, io.EOF
	}
	n, err = d.ahead.Read(p)
	d.pos += int64(n)
	return n, err
}

// peek waits until the next byte may be read, and verifies the content if that is
// its last one.
func (d *bypass) peek() error {
	if d.verified {
		return nil
	}
	_, err := d.ahead.Peek(2)
	switch {
	case d.parted && d.source.plain:
		return errPlain
	case err == nil && d.size >= 0 && d.pos+2 > d.size:
		return fmt.Errorf("the source sent more than its %d bytes: %w", d.size, ErrDigestMismatch)
	case err == io.EOF:
		return d.verify()
	}
	return err
}

// verify hashes the byte that was held back and compares size and digest.
func (d *bypass) verify() error {
	last, _ := d.ahead.Peek(d.ahead.Buffered())
	if got := d.pos + int64(len(last)); d.size >= 0 && got != d.size {
		return fmt.Errorf("after %d of %d bytes: %w", got, d.size, io.ErrUnexpectedEOF)
	}
	d.hash.Write(last)
	if got := digest.NewDigest(d.req.Digest.Algorithm(), d.hash); got != d.req.Digest {
		return fmt.Errorf("%s: got %s: %w", d.req.Digest, got, ErrDigestMismatch)
	}
	d.verified = true
	if d.req.Claim != nil {
		d.req.Claim.Delivered(d.pos + int64(len(last)))
	}
	return nil
}

// parts implements [Follower.Parts].
func (d *bypass) parts() bool {
	d.parted = d.source != nil && !d.source.plain
	return d.parted
}

// Seek implements io.Seeker. The caller passes absolute offsets only.
func (d *bypass) Seek(offset int64, _ int) (int64, error) {
	if offset != d.off {
		d.sent = sent{}
		if d.err != nil {
			d.closeSource() // its bytes are read and hashed again from the start
			d.err = nil
		}
	}
	d.off = offset
	return offset, nil
}

func (d *bypass) Close() error {
	d.closeSource()
	d.stop(nil)
	d.slot.release()
	d.slot = nil
	return nil
}

func (d *bypass) closeSource() {
	if d.source != nil {
		d.source.close()
		d.source = nil
	}
}

// isEmpty reports whether d is the digest of no bytes. Empty content has no
// last byte to hold back, so it is verified before it is answered.
func isEmpty(d digest.Digest) bool { return d == d.Algorithm().FromBytes(nil) }
