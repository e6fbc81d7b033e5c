package access

import (
	"slices"
	"sync"

	"go.uber.org/zap"
)

// spellings finds entries of the configuration that differ from an account only
// in case or in the form of a character. Such an entry grants nothing, since
// roles belong to exact names.
type spellings struct {
	entries map[ID][]ID // by folded name
	logger  *zap.Logger
	logged  sync.Map // the entries that have been logged
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

// others returns the entries that differ from an account only in spelling.
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

// seen logs the entries that differ from an account only in spelling, each once.
func (s *spellings) seen(id ID) {
	for _, entry := range s.others(id) {
		if _, logged := s.logged.LoadOrStore(entry, true); !logged {
			s.logger.Warn("configured account differs in spelling from the account in the directory; names must match exactly",
				zap.Stringer("entry", entry), zap.Stringer("account", id))
		}
	}
}
