package blobcache

import (
	"bufio"
	"context"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
)

// direct reads content from its source without a cache, for when there is no
// disk to spool to. It is held to the same rule as a fill: the last byte is
// delivered only if the digest matches, which is why it always begins at the
// source's first byte, whatever offset is asked for.
type direct struct {
	ctx      context.Context
	req      Request
	body     *Body
	ahead    *bufio.Reader
	hash     hash.Hash
	pos      int64 // of the next byte from ahead
	off      int64 // of the next byte for the reader
	verified bool
}

// newDirect asks the source and returns a reader once it has answered.
func newDirect(ctx context.Context, req Request) (*Reader, error) {
	d, err := openDirect(ctx, req)
	if err != nil {
		return nil, err
	}
	if req.Confirmed != nil {
		req.Confirmed(d.body.Size)
	}
	return &Reader{source: d, size: d.body.Size}, nil
}

func openDirect(ctx context.Context, req Request) (*direct, error) {
	d := &direct{ctx: ctx, req: req}
	return d, d.open()
}

func (d *direct) open() error {
	if d.body != nil {
		_ = d.body.Close()
	}
	body, err := d.req.Fetch(d.ctx, 0, "")
	if err != nil {
		return err
	}
	d.body, d.ahead = body, bufio.NewReaderSize(body, copyBuffer)
	d.hash, d.pos, d.verified = d.req.Digest.Algorithm().Hash(), 0, false
	return nil
}

func (d *direct) Read(p []byte) (int, error) {
	if d.off < d.pos {
		if err := d.open(); err != nil {
			return 0, err
		}
	}
	for d.pos < d.off {
		skip := make([]byte, min(copyBuffer, d.off-d.pos))
		if _, err := d.next(skip); err != nil {
			return 0, fmt.Errorf("skip to byte %d: %w", d.off, err)
		}
	}
	n, err := d.next(p)
	d.off += int64(n)
	return n, err
}

// next delivers what comes next from the source, keeping a byte in hand.
func (d *direct) next(p []byte) (n int, err error) {
	_, err = d.ahead.Peek(2)
	switch {
	case err == nil:
		n, err = d.ahead.Read(p[:min(len(p), d.ahead.Buffered()-1)])
		d.hash.Write(p[:n])
	case err != io.EOF:
		return 0, err
	case !d.verified:
		last, _ := d.ahead.Peek(d.ahead.Buffered())
		d.hash.Write(last)
		if got := digest.NewDigest(d.req.Digest.Algorithm(), d.hash); got != d.req.Digest {
			return 0, fmt.Errorf("%s: got %s: %w", d.req.Digest, got, ErrDigestMismatch)
		}
		d.verified = true
		fallthrough
	default:
		n, err = d.ahead.Read(p)
	}
	d.pos += int64(n)
	return n, err
}

// Seek needs no size: [Reader] turns all offsets into absolute ones.
func (d *direct) Seek(offset int64, _ int) (int64, error) {
	d.off = offset
	return offset, nil
}

func (d *direct) Close() error { return d.body.Close() }
