package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// askFirst is the size in bytes from which the bucket is asked whether it has the
	// content before it is uploaded.
	askFirst = 64 << 10

	partSize = 64 << 20 // the default of Config.partSize
	maxParts = 10_000   // of an object

	// maxObject is the size in bytes of the largest object that object stores keep.
	maxObject = 5 << 40

	// abortLimit bounds the removal of the parts of an upload that has failed.
	abortLimit = 5 * time.Second
)

// upload writes content to the bucket unless the bucket has it. The error is
// store.ErrDamaged if the local content does not have its digest, and errNotAsked if the
// content was fetched from the bucket.
func (s *Store) upload(ctx context.Context, d digest.Digest, content io.ReadSeeker) error {
	size, err := content.Seek(0, io.SeekEnd)
	if err != nil {
		return objectError{err}
	}
	at, ok := content.(io.ReaderAt)
	if !ok {
		return objectError{errors.New("stored content cannot be read at an offset")}
	}
	if size > maxObject {
		return objectError{fmt.Errorf("it has %d bytes, and objects have at most %d", size, int64(maxObject))}
	}
	if h, ok := s.held.Get(d); ok && h.size == size && time.Since(h.at) < heldFor {
		return errNotAsked // it came from there
	}
	t := &transfer{
		client: s.client, name: blobName(d), content: at, size: size, verifier: d.Verifier(), stall: s.config.waits.stall,
	}
	if size >= askFirst {
		switch o, err := s.client.stat(ctx, blobName(d)); {
		case err == nil && o.size == size:
			return s.verifyUploaded(ctx, d, t)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	turn, end := s.pulls.turn(ctx)
	defer end()
	t.turn = turn
	if size <= s.config.partSize {
		return t.put(ctx)
	}
	etag, err := t.putParts(ctx, partOf(size, s.config.partSize))
	if err != nil {
		return err
	}
	return s.saveVerified(ctx, d, object{size: size, etag: etag})
}

// saveVerified records which object a node has uploaded with checksums.
func (s *Store) saveVerified(ctx context.Context, d digest.Digest, o object) error {
	if err := s.Save(ctx, verifiedKey(d), []byte(o.String())); err != nil {
		return objectError{err}
	}
	return nil
}

// verifyUploaded records that the bucket has content with its checksums unless a node has
// recorded that: a node may have been killed after an upload in parts.
func (s *Store) verifyUploaded(ctx context.Context, d digest.Digest, t *transfer) error {
	if t.size <= s.config.partSize {
		return nil
	}
	if _, err := s.Load(ctx, verifiedKey(d)); err == nil {
		return nil
	}
	o, has, err := s.client.statChecksum(ctx, t.name)
	if err != nil || has == "" {
		return err
	}
	want, err := t.partsChecksum(partOf(t.size, s.config.partSize))
	if err != nil || has != want {
		return err
	}
	return s.saveVerified(ctx, d, o)
}

// partOf returns the size of the parts of content, which is at least least.
func partOf(size, least int64) int64 { return max(least, (size+maxParts-1)/maxParts) }

// putBytes writes a small object.
func (c *client) putBytes(ctx context.Context, name string, content []byte) error {
	t := &transfer{client: c, name: name, content: bytes.NewReader(content), size: int64(len(content)), stall: putLimit}
	return t.put(ctx)
}

// putLimit is how long a step of writing a small object may take.
const putLimit = 30 * time.Second

// transfer writes an object. The object store compares what it gets with SHA-256
// checksums.
type transfer struct {
	client   *client
	name     string
	content  io.ReaderAt
	size     int64
	verifier digest.Verifier // of the content, unless it is nil
	stall    time.Duration   // for sending a buffer, and for an answer
	turn     func()          // is called before each buffer, unless it is nil, and may wait
}

// put writes an object in one request.
func (t *transfer) put(ctx context.Context) error {
	sum, err := t.checksum(0, t.size)
	if err == nil {
		err = t.verify()
	}
	if err != nil {
		return err
	}
	options := minio.PutObjectOptions{
		DisableContentSha256: true, // that of chunks; the whole has one
		UserMetadata:         map[string]string{"X-Amz-Checksum-Sha256": base64.StdEncoding.EncodeToString(sum)},
	}
	return t.send(ctx, 0, t.size, func(ctx context.Context, body io.Reader) error {
		_, err := t.client.api.PutObject(ctx, t.client.bucket, t.client.prefix+t.name, body, t.size, "", hex.EncodeToString(sum), options)
		return err
	})
}

// putParts writes an object in parts, one after the other, and returns its entity tag.
// The parts of an upload that fails are removed.
func (t *transfer) putParts(ctx context.Context, part int64) (etag string, err error) {
	var id string
	err = t.client.do(ctx, func() (err error) {
		id, err = t.client.api.NewMultipartUpload(ctx, t.client.bucket, t.client.prefix+t.name, minio.PutObjectOptions{
			UserMetadata: map[string]string{"X-Amz-Checksum-Algorithm": minio.ChecksumSHA256.String()},
		})
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			aborting, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortLimit)
			defer cancel()
			_ = t.client.abort(aborting, t.name, id) // a sweep removes it a day later
		}
	}()
	var parts []minio.CompletePart
	for from := int64(0); from < t.size; from += part {
		done, err := t.putPart(ctx, id, len(parts)+1, from, min(part, t.size-from))
		if err != nil {
			return "", err
		}
		parts = append(parts, done)
	}
	if err := t.verify(); err != nil {
		return "", err
	}
	err = t.client.do(ctx, func() error {
		info, err := t.client.api.CompleteMultipartUpload(ctx, t.client.bucket, t.client.prefix+t.name, id, parts, minio.PutObjectOptions{})
		etag = info.ETag
		return err
	})
	return etag, err
}

func (t *transfer) putPart(ctx context.Context, id string, number int, from, length int64) (done minio.CompletePart, err error) {
	sum, err := t.checksum(from, length)
	if err != nil {
		return done, err
	}
	encoded := base64.StdEncoding.EncodeToString(sum)
	options := minio.PutObjectPartOptions{
		Sha256Hex: hex.EncodeToString(sum), DisableContentSha256: true,
		CustomHeader: http.Header{"X-Amz-Checksum-Sha256": {encoded}},
	}
	err = t.send(ctx, from, length, func(ctx context.Context, body io.Reader) error {
		part, err := t.client.api.PutObjectPart(ctx, t.client.bucket, t.client.prefix+t.name, id, number, body, length, options)
		done = minio.CompletePart{PartNumber: part.PartNumber, ETag: part.ETag, ChecksumSHA256: encoded}
		return err
	})
	return done, err
}

// checksum returns the SHA-256 checksum of a part of the content, and lets the verifier
// see it.
func (t *transfer) checksum(from, length int64) ([]byte, error) {
	hash := sha256.New()
	to := io.Writer(hash)
	if t.verifier != nil {
		to = io.MultiWriter(hash, t.verifier)
	}
	n, err := io.Copy(to, io.NewSectionReader(t.content, from, length))
	if err == nil && n != length {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, objectError{err}
	}
	return hash.Sum(nil), nil
}

// partsChecksum returns the SHA-256 checksum that an object store reports for an object in
// parts: that of their checksums, and their number.
func (t *transfer) partsChecksum(part int64) (string, error) {
	all, n := sha256.New(), 0
	for from := int64(0); from < t.size; from += part {
		sum, err := t.checksum(from, min(part, t.size-from))
		if err != nil {
			return "", err
		}
		_, _ = all.Write(sum)
		n++
	}
	return base64.StdEncoding.EncodeToString(all.Sum(nil)) + "-" + strconv.Itoa(n), t.verify()
}

// verify returns store.ErrDamaged if the content that the verifier has seen does not have
// its digest: an object of that name would be served to all nodes.
func (t *transfer) verify() error {
	if t.verifier != nil && !t.verifier.Verified() {
		return store.ErrDamaged
	}
	return nil
}

// send calls put with a part of the content, again with new credentials if there are, and
// ends it if it stands still.
func (t *transfer) send(ctx context.Context, from, length int64, put func(context.Context, io.Reader) error) error {
	return t.client.do(ctx, func() error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		stalled := time.AfterFunc(t.stall, func() {
			cancel(fmt.Errorf("the bucket has not gone on for %v: %w", t.stall, context.DeadlineExceeded))
		})
		defer stalled.Stop()
		goOn := func() {
			if t.turn != nil {
				t.turn()
			}
			stalled.Reset(t.stall)
		}
		err := put(ctx, &sending{io.NewSectionReader(t.content, from, length), goOn})
		if err != nil && context.Cause(ctx) != nil {
			err = context.Cause(ctx)
		}
		return err
	})
}

// sending is content that is being sent.
type sending struct {
	*io.SectionReader
	goOn func() // is called before each buffer
}

func (r *sending) Read(p []byte) (int, error) {
	r.goOn()
	return r.SectionReader.Read(p)
}
