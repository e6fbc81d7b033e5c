package bucket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

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
	judge := func(err error) (memo.Verdict, time.Duration) {
		if errors.Is(err, fs.ErrNotExist) {
			return memo.Refused, w.absent
		}
		return memo.Failed, 0
	}
	return memo.New(memo.Config[struct{}]{Size: absentEntries, Timeout: w.record, Judge: judge}), memo.New(memo.Config[[]byte]{
		Size: reloadedEntries, Timeout: w.record, Judge: judge, Fresh: w.absent,
		Weigh: func(value []byte) int { return len(value) }, MaxWeight: reloadedBytes,
	})
}

// Reload implements [store.Tiered]: it returns the value in the bucket, which another
// node may have written. The local value stays as it is. Reload asks the bucket at most
// once in five seconds for each record, and a question goes on if ctx ends. The error is
// fs.ErrNotExist if the bucket does not have the record or fails.
func (s *Store) Reload(ctx context.Context, key string) ([]byte, error) {
	if !s.isShared(key) {
		return nil, fmt.Errorf("record %s is not shared: %w", key, fs.ErrNotExist)
	}
	value, err := s.reloaded.Get(ctx, key, func(ctx context.Context) ([]byte, error) {
		value, _, err := s.read(ctx, key)
		return value, err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return value, err
}
