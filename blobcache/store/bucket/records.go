package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// errDeleted means that a record may have been deleted while it was read.
var errDeleted = errors.New("the record was read while others were deleted")

// maxName is the length of the longest name of an object, in bytes. Records with
// longer ones stay on the local disk.
const maxName = 1024

// isShared reports whether the nodes share a record.
func (s *Store) isShared(key string) bool {
	folder, _, below := strings.Cut(key, "/")
	return below && s.shared[folder] && len(s.config.Prefix)+len(key) <= maxName
}

// Load implements [store.Records]. If the record is not stored locally, Load asks the
// bucket, at most once in five seconds for each record. If the bucket fails, the error
// is fs.ErrNotExist too: a lost record costs a question to the source.
func (s *Store) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := s.FileStore.Load(ctx, key)
	if err == nil || !errors.Is(err, fs.ErrNotExist) || !s.isShared(key) {
		return value, err
	}
	_, err = s.asked.Get(ctx, key, func(ctx context.Context) (struct{}, error) {
		l := s.lock(key)
		deletions := l.deletions
		l.Unlock()
		value, current, err := s.read(ctx, key)
		if err != nil {
			return struct{}{}, err
		}
		if err = s.adopt(ctx, key, value, deletions); err == nil && !current {
			s.records.add(key, write) // under the key in use, before the old one is deleted
		}
		return struct{}{}, err
	})
	switch {
	case err == nil:
		return s.FileStore.Load(ctx, key)
	case errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", err, fs.ErrNotExist)
}

// adopt stores the value of the bucket locally, unless the record has been saved meanwhile.
// Deletions is the number of deletions under the lock of the record before the bucket was
// asked. If there are more now, the record may be one of them, and the error is errDeleted.
func (s *Store) adopt(ctx context.Context, key string, value []byte, deletions int) error {
	l := s.lock(key)
	defer l.Unlock()
	if l.deletions != deletions {
		return fmt.Errorf("record %s may have been deleted: %w", key, errDeleted)
	}
	if _, err := s.FileStore.Load(ctx, key); err == nil {
		return nil
	}
	return s.FileStore.Save(ctx, key, value)
}

// read returns the value of a record in the bucket, and whether it was written under
// the key in use. The error is fs.ErrNotExist if there is none with a valid
// authentication code.
func (s *Store) read(ctx context.Context, key string) (value []byte, current bool, err error) {
	if c, pending := s.records.pending(key); pending && c == remove {
		return nil, false, fmt.Errorf("record %s is being deleted: %w", key, fs.ErrNotExist)
	}
	if err := s.reads.check(key); err != nil {
		return nil, false, err
	}
	sealed, err := s.readObject(ctx, key)
	s.noteShortRead(ctx, key, err)
	if err != nil {
		return nil, false, fmt.Errorf("read record %s from the bucket: %w", key, err)
	}
	value, current, err = s.open(ctx, key, sealed)
	if errors.Is(err, errForged) {
		s.reportObject(key, err)
		return nil, false, fmt.Errorf("record %s: %w: %w", key, err, fs.ErrNotExist)
	}
	return value, current, err
}

func (s *Store) readObject(ctx context.Context, name string) ([]byte, error) {
	body, _, err := s.client.get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	return readRecord(body)
}

// readRecord reads a record to its end and closes it.
func readRecord(body io.ReadCloser) ([]byte, error) {
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, maxRecord+1))
	if err == nil && len(content) > maxRecord {
		err = fmt.Errorf("it has more than %d bytes: %w", maxRecord, fs.ErrNotExist)
	}
	return content, err
}

// Save implements [store.Records]. The record is uploaded later.
func (s *Store) Save(ctx context.Context, key string, value []byte) error {
	if !s.isShared(key) {
		return s.FileStore.Save(ctx, key, value)
	}
	defer s.lock(key).Unlock()
	if err := s.FileStore.Save(ctx, key, value); err != nil {
		return err
	}
	s.records.add(key, write)
	return nil
}

// Delete implements [store.Records]. The record in the bucket is removed later; until
// then it is not read.
func (s *Store) Delete(ctx context.Context, key string) error {
	if !s.isShared(key) {
		return s.FileStore.Delete(ctx, key)
	}
	l := s.lock(key)
	defer l.Unlock()
	l.deletions++
	if err := s.FileStore.Delete(ctx, key); err != nil {
		return err
	}
	if !s.records.add(key, remove) {
		return fmt.Errorf("delete record %s from the bucket: %d changes wait already", key, queueLimit)
	}
	return nil
}

// Forget implements [store.Tiered]: it removes the local record only.
func (s *Store) Forget(ctx context.Context, key string) error {
	l := s.lock(key)
	defer l.Unlock()
	l.deletions++
	return s.FileStore.Delete(ctx, key)
}

// changeRecord makes a change of the queue of records.
func (s *Store) changeRecord(ctx context.Context, key string, c change) error {
	ctx, cancel := context.WithTimeout(ctx, recordLimit)
	defer cancel()
	if c == remove {
		return s.client.remove(ctx, key)
	}
	value, err := s.FileStore.Load(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return errNotAsked // it was forgotten before its turn
	}
	if err != nil {
		return err
	}
	sealed, err := s.seal(ctx, key, value)
	if err != nil {
		return err
	}
	if len(sealed) > maxRecord {
		return errNotAsked // no node would read it
	}
	if err := s.client.putBytes(ctx, key, sealed); err != nil {
		return fmt.Errorf("upload record %s: %w", key, err)
	}
	return nil
}

// recordLimit bounds the upload of a record.
const recordLimit = 30 * time.Second

// markKey is the local record of a time before which all records were uploaded, and of
// the key in use then. MarkInterval is how often it is set.
const (
	markKey      = "bucket/uploaded_until"
	markInterval = time.Minute
)

// markSlack is by how much the time of a record may be before that when it was saved:
// the last use that is recorded may be from before.
const markSlack = time.Hour

// keepMark sets the mark whenever all records are uploaded, until ctx ends.
func (s *Store) keepMark(ctx context.Context) {
	for {
		began := time.Now()
		select {
		case <-s.records.await(false):
		case <-ctx.Done():
			return
		}
		if !s.records.status().lost && s.complete.Load() {
			mark := began.UTC().Format(time.RFC3339) + " " + s.foundUnder()
			if err := s.FileStore.Save(ctx, markKey, []byte(mark)); err != nil {
				s.config.StorageError("record what is uploaded", err)
			}
		}
		if !store.Pause(ctx, markInterval) {
			return
		}
	}
}

// foundUnder returns the id of the key in use when findRecords began.
func (s *Store) foundUnder() string {
	id, _ := s.keyID.Load().(string)
	return id
}

// rotated reports whether another key is in use than when findRecords began.
func (s *Store) rotated(ctx context.Context) bool {
	id, _, err := s.config.Keys(ctx, "")
	return err == nil && id != s.foundUnder()
}

// findRecords adds the local records that may not be in the bucket to the queue: those
// saved or used since all were uploaded, or all if that was under another key. It waits
// while the queue is full.
func (s *Store) findRecords(ctx context.Context) error {
	id, _, err := s.config.Keys(ctx, "")
	if err != nil {
		return fmt.Errorf("the key that authenticates records: %w", err)
	}
	s.keyID.Store(id)
	var until time.Time // the zero time if there is no mark: all records are new
	if mark, err := s.FileStore.Load(ctx, markKey); err == nil {
		at, under, _ := strings.Cut(string(mark), " ")
		if marked, err := time.Parse(time.RFC3339, at); err == nil && under == id {
			until = marked.Add(-markSlack)
		}
	}
	for folder := range s.shared {
		err := s.FileStore.List(ctx, folder, store.Paced(ctx, store.WalkStride, func(r store.Record) error {
			if r.Used.Before(until) || !s.isShared(r.Key) {
				return nil
			}
			for !s.records.add(r.Key, write) {
				if !store.Pause(ctx, s.config.waits.pause) {
					return ctx.Err()
				}
			}
			return nil
		}))
		if err != nil {
			return err
		}
	}
	return nil
}
