package index

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// FuzzParseLinkKey checks that no key is parsed as a link of a scope and digest whose link has
// another key.
func FuzzParseLinkKey(f *testing.F) {
	d := digest.FromString("x")
	for _, key := range []string{
		linkKey("acme/_/docker.io/library/alpine", d), linkKey("a", d), linkKey("a/_/b/_/c", d), linkKey("", d), linkKey("_", d), linkKey("/", d),
		"links", "links/_/sha256/" + d.Encoded(), "links/a/_/sha256/ab", "links/a/sha256/" + d.Encoded(), "refs/a/_/sha256/" + d.Encoded(), "links/a/_/../" + d.Encoded(),
	} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		scope, d, ok := parseLinkKey(key)
		if !ok {
			return
		}
		if back := linkKey(scope, d); back != key || d.Validate() != nil {
			t.Errorf("%q and %q are one link", key, back)
		}
		last := scope + "/"
		Owners(scope, func(owner string) bool {
			if owner == "" || len(owner) >= len(last) || !strings.HasPrefix(scope+"/", owner+"/") {
				t.Errorf("%q owns %q", owner, scope)
			}
			last = owner
			return true
		})
	})
}
