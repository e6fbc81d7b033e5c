package bucket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
)

const (
	// absentEntries is the number of records that are remembered as absent. They take
	// some 10 MiB.
	absentEntries = 32 << 10

	// reloadedEntries and reloadedBytes bound what [Store.Reload] remembers.
	reloadedEntries = 8 << 10
	reloadedBytes   = 4 << 20
)

// newMemories returns the memories of the records that the bucket does not have, and of
// the values that it has.
func newMemories(w waits) (absent *memo.Cache[struct{}], values *memo.Cache[[]byte]) {
	return memo.New(memo.Config[struct{}]{Size: absentEntries, Timeout: w.record, Judge: w.judge}), memo.New(memo.Config[[]byte]{
		Size: reloadedEntries, Timeout: w.record, Judge: w.judge, Fresh: w.absent,
		Weigh: func(value []byte) int { return len(value) }, MaxWeight: reloadedBytes,
	})
}

// judge makes a memory remember that an object is absent, and forget other errors.
func (w waits) judge(err error) (memo.Verdict, time.Duration) {
	if errors.Is(err, fs.ErrNotExist) {
		return memo.Refused, w.absent
	}
	return memo.Failed, 0
}

// Reload implements [store.Tiered]: it returns the value in the bucket, which another
// node may have written. The local value stays as it is. Reload asks the bucket at most
// once in five seconds for each record, and a question goes on if ctx ends. The error is
// fs.ErrNotExist if the bucket does not have the record, and another one if it fails.
func (s *Store) Reload(ctx context.Context, key string) ([]byte, error) {
	if !s.isShared(key) {
		return nil, fmt.Errorf("record %s is not shared: %w", key, fs.ErrNotExist)
	}
	return s.reloaded.Get(ctx, key, func(ctx context.Context) ([]byte, error) {
		value, _, err := s.read(ctx, key)
		return value, err
	})
}

// ListShared implements [store.Tiered]. It fails at once while the bucket is left alone
// after a failure, and if the bucket lists nothing for some seconds.
func (s *Store) ListShared(ctx context.Context, prefix string, visit func(store.Record) error) error {
	if !s.isShared(prefix + "/") {
		return nil
	}
	if err := s.reads.check(prefix + "/"); err != nil {
		return err
	}
	listing, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(s.config.waits.answer, func() {
		cancel(fmt.Errorf("the bucket listed nothing for %v: %w", s.config.waits.answer, context.DeadlineExceeded))
	})
	defer stalled.Stop()
	var stopped error // by visit
	err := s.client.list(listing, prefix+"/", func(name string, o object) error {
		stalled.Stop()
		defer stalled.Reset(s.config.waits.answer)
		stopped = visit(store.Record{Key: name, Used: o.modified})
		return stopped
	})
	if stopped != nil {
		return stopped
	}
	if err != nil && listing.Err() != nil {
		err = context.Cause(listing)
	}
	s.noteRead(ctx, prefix+"/", err)
	return err
}

// DeleteBelow implements [store.Tiered]. It lists the records before it returns and
// removes them soon after.
func (s *Store) DeleteBelow(ctx context.Context, prefix string) error {
	err := s.ListShared(ctx, prefix, func(r store.Record) error {
		for !s.removeAbsent(ctx, r.Key) {
			if !store.Pause(ctx, s.config.waits.pause) {
				return ctx.Err()
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove records from the bucket: %w", err)
	}
	return nil
}

// removeAbsent removes a record from the bucket, unless it was saved here meanwhile. It
// reports false if the queue is full.
func (s *Store) removeAbsent(ctx context.Context, key string) bool {
	defer s.lock(key).Unlock()
	if _, err := s.FileStore.Load(ctx, key); err == nil {
		return true
	}
	return s.records.add(key, remove)
}
