package caddymodule

import (
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

// cacheOf returns the cache of a node.
func cacheOf(s *sitetest.Site) *sharedCache {
	s.T.Helper()
	for _, c := range caches.All() {
		if strings.HasSuffix(c.name, "filesystem "+s.Cache) {
			return c
		}
	}
	s.T.Fatalf("got no cache in %s", s.Cache)
	return nil
}

// outdate makes a node believe that upstream has confirmed a tag of a group an hour ago. If
// told is set, it tells that to the others.
func outdate(s *sitetest.Site, scope, tag string, told bool) {
	s.T.Helper()
	x := cacheOf(s).index
	ref, err := x.Ref(s.T.Context(), scope, tag)
	if err == nil {
		ref.Checked, ref.NotBefore, ref.Learned = time.Now().Add(-time.Hour), time.Time{}, !told
		if told {
			ref.Size++ // or it would not be written
		}
		err = x.SetRef(s.T.Context(), scope, tag, ref)
	}
	if err != nil {
		s.T.Fatal(err)
	}
}
