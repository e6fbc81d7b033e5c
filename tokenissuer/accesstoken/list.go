package accesstoken

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Get returns a token as storage has it now, revoked or expired ones too. An
// absent one is [fs.ErrNotExist], any other error an [ErrUnavailable].
func (s *Store) Get(ctx context.Context, id string) (Token, error) {
	if !IsID(id) {
		return Token{}, errAbsent
	}
	return s.listed(ctx, id, true)
}

// List returns all tokens as storage has them, the newest first: revoked ones
// and, for 30 days, expired ones too. A token that cannot be read now is an
// [ErrUnavailable], since a list that lacks one would mislead.
func (s *Store) List(ctx context.Context) ([]Token, error) {
	names, err := s.names(ctx)
	if err != nil {
		return nil, unavailable("listing access tokens", err)
	}
	var mu sync.Mutex
	tokens := make([]Token, 0, len(names))
	readers, ctx := errgroup.WithContext(ctx)
	readers.SetLimit(listers)
	for id := range tokenIDs(names) {
		readers.Go(func() error {
			t, err := s.listed(ctx, id, names[path.Base(s.used(id))])
			mu.Lock()
			defer mu.Unlock()
			if err == nil && s.now().Before(t.Expires.Add(keepDead)) {
				tokens = append(tokens, t)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
	}
	if err := readers.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(tokens, func(a, b Token) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return tokens, nil
}

// listed reads a token, and its last use if there is a record of one.
func (s *Store) listed(ctx context.Context, id string, used bool) (Token, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	t, _, err := s.read(ctx, id)
	if err != nil || !used {
		return t, err
	}
	content, err := s.storage.Load(ctx, s.used(id))
	if err == nil {
		err = json.Unmarshal(content, &t.LastUsed)
	}
	s.trouble("reading the last use of an access token", err)
	return t, nil
}

// names are the files in storage, without their path.
func (s *Store) names(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	paths, err := s.storage.List(ctx, s.prefix, false)
	if errors.Is(err, fs.ErrNotExist) {
		// The path may not exist yet. Or a file in it, such as a temporary
		// one, vanished during the listing: certmagic's FileStorage reports
		// both alike.
		paths, err = s.storage.List(ctx, s.prefix, false)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := make(map[string]bool, len(paths))
	for _, p := range paths {
		names[path.Base(p)] = true
	}
	return names, nil
}

// tokenIDs are the tokens among some files. Others are what belongs to a token,
// or a storage's own temporary ones.
func tokenIDs(names map[string]bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range names {
			if id, ok := strings.CutSuffix(name, ".json"); ok && IsID(id) && !yield(id) {
				return
			}
		}
	}
}

// tidy deletes what has been dead for long, once a day at most. The tombstone
// goes last: without it, a token that has come back by some mirror's mistake
// is still expired.
func (s *Store) tidy(ctx context.Context) {
	now := s.now()
	s.mu.Lock()
	due := now.Sub(s.tidied) >= 24*time.Hour
	if due {
		s.tidied = now
	}
	s.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := detached(ctx) // for all of it: somebody waits
	defer cancel()
	names, err := s.names(ctx)
	for id := range tokenIDs(names) {
		if err == nil {
			err = s.deleteDead(ctx, id, now)
		}
	}
	s.trouble("deleting expired access tokens", err)
}

func (s *Store) deleteDead(ctx context.Context, id string, now time.Time) error {
	t, _, err := s.read(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || now.Before(t.Expires.Add(keepDead)) {
		return err
	}
	for _, file := range []string{s.file(id), s.used(id), s.grave(id)} {
		if err := s.storage.Delete(ctx, file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
