package accesstoken

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
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
	tokens := make([]Token, 0, len(names))
	for name := range names {
		id, ok := strings.CutSuffix(name, ".json")
		if !ok || !IsID(id) {
			continue // a temporary file of the storage's
		}
		t, err := s.listed(ctx, id, names[path.Base(s.used(id))])
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if s.now().Before(t.Expires.Add(keepDead)) {
			tokens = append(tokens, t)
		}
	}
	slices.SortFunc(tokens, func(a, b Token) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return tokens, nil
}

// listed reads a token, and its last use if there is a record of one.
func (s *Store) listed(ctx context.Context, id string, used bool) (Token, error) {
	ctx, cancel := detached(ctx)
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

func (s *Store) names(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := detached(ctx)
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
	names, err := s.names(ctx)
	for name := range names {
		if id, ok := strings.CutSuffix(name, ".json"); ok && IsID(id) && err == nil {
			err = s.deleteDead(ctx, id, now)
		}
	}
	s.trouble("deleting expired access tokens", err)
}

func (s *Store) deleteDead(ctx context.Context, id string, now time.Time) error {
	ctx, cancel := detached(ctx)
	defer cancel()
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
