package access

import (
	"slices"
	"sync"

	"go.uber.org/zap"
)

// spellings finds entries of the configuration that were meant for an account
// and are spelled otherwise, in case or in the form of a character. Such an entry
// gives nobody anything, since roles are given to names as they are.
type spellings struct {
	entries map[ID][]ID // by what they are when folded
	logger  *zap.Logger
	told    sync.Map // of the entries, those that the log has
}

func newSpellings(logger *zap.Logger, names Directories, admins []string, groups []Group) *spellings {
	s := &spellings{entries: make(map[ID][]ID), logger: logger}
	s.add(names, admins)
	for _, g := range groups {
		s.add(names, g.Members)
		s.add(names, g.Maintainers)
		s.add(names, g.Owners)
	}
	return s
}

func (s *spellings) add(names Directories, entries []string) {
	for _, entry := range entries {
		id, err := names.Account("", entry)
		if err != nil {
			continue
		}
		folded := ID{id.directory, foldName(id.name)}
		if !slices.Contains(s.entries[folded], id) {
			s.entries[folded] = append(s.entries[folded], id)
		}
	}
}

// others returns the entries that differ from an account in nothing but spelling.
func (s *spellings) others(id ID) (others []ID) {
	if s == nil || len(s.entries) == 0 {
		return nil
	}
	for _, entry := range s.entries[ID{id.directory, foldName(id.name)}] {
		if entry != id {
			others = append(others, entry)
		}
	}
	return others
}

// seen logs each such entry once.
func (s *spellings) seen(id ID) {
	for _, entry := range s.others(id) {
		if _, told := s.told.LoadOrStore(entry, true); !told {
			s.logger.Warn("an account of the configuration is spelled otherwise by its directory, and names are compared as they are",
				zap.Stringer("entry", entry), zap.Stringer("account", id))
		}
	}
}
