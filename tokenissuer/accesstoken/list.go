package accesstoken

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record"
)

// List returns all tokens as they are stored, newest first. It includes revoked
// tokens, and expired ones for 30 days. If a token cannot be read the error is an
// [ErrUnavailable], because an incomplete list would be misleading.
func (s *Store) List(ctx context.Context) ([]Token, error) {
	names, err := s.names(ctx)
	if err != nil {
		return nil, unavailable("listing access tokens", err)
	}
	var mu sync.Mutex
	tokens := make([]Token, 0, len(names))
	readers, ctx := errgroup.WithContext(ctx)
	readers.SetLimit(listReaders)
	for id := range tokenIDs(names) {
		readers.Go(func() error {
			t, err := s.readListed(ctx, id, names[useName(id)])
			mu.Lock()
			defer mu.Unlock()
			if err == nil && s.now().Before(t.Expires.Add(keepExpired)) {
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

// readListed reads a token and, if used is set, when it was last used.
func (s *Store) readListed(ctx context.Context, id string, used bool) (Token, error) {
	ctx, cancel := context.WithTimeout(ctx, record.Timeout)
	defer cancel()
	t, _, err := s.read(ctx, id)
	if err != nil || !used {
		return t, err
	}
	content, err := s.folder.Load(ctx, useName(id))
	if err == nil {
		err = json.Unmarshal(content, &t.LastUsed)
	}
	s.report("reading the last use of an access token", err)
	return t, nil
}

// names returns the names of all files.
func (s *Store) names(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, record.Timeout)
	defer cancel()
	return s.folder.Names(ctx)
}

// tokenIDs returns the IDs of the tokens among the files. The other files belong
// to a token or are temporary files of the storage.
func tokenIDs(names map[string]bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range names {
			if id, ok := strings.CutSuffix(name, tokenSuffix); ok && IsID(id) && !yield(id) {
				return
			}
		}
	}
}

// tidy deletes tokens that expired long ago, once a day at most.
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
	// A client waits for it, so the limit is for all deletions together.
	ctx, cancel := record.Detach(ctx)
	defer cancel()
	names, err := s.names(ctx)
	for id := range tokenIDs(names) {
		if err == nil {
			err = s.deleteExpired(ctx, id, now)
		}
	}
	s.report("deleting expired access tokens", err)
}

// deleteExpired deletes the files of a token that expired long ago. It deletes
// the revocation last, so that a token cannot be read without it.
func (s *Store) deleteExpired(ctx context.Context, id string, now time.Time) error {
	t, _, err := s.read(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || now.Before(t.Expires.Add(keepExpired)) {
		return err
	}
	for _, name := range []string{tokenName(id), useName(id), revocationName(id)} {
		if err := s.folder.Delete(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
