package caddymodule

import (
	"strings"
	"time"
)

// cacheOf returns the cache of a node.
func cacheOf(s *site) *sharedCache {
	s.t.Helper()
	for _, c := range caches.All() {
		if strings.HasSuffix(c.name, "filesystem "+s.cache) {
			return c
		}
	}
	s.t.Fatalf("got no cache in %s", s.cache)
	return nil
}

// outdate makes a node believe that upstream has confirmed a tag of a group an hour ago. If
// told is set, it tells that to the others.
func (s *site) outdate(scope, tag string, told bool) {
	s.t.Helper()
	x := cacheOf(s).index
	ref, err := x.Ref(s.t.Context(), scope, tag)
	if err == nil {
		ref.Checked, ref.NotBefore, ref.Learned = time.Now().Add(-time.Hour), time.Time{}, !told
		if told {
			ref.Size++ // or it would not be written
		}
		err = x.SetRef(s.t.Context(), scope, tag, ref)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
