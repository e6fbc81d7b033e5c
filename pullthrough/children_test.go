package pullthrough

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
)

func TestChildren(t *testing.T) {
	a, b, c := digest.FromString("a"), digest.FromString("b"), digest.FromString("c")
	leaf, node := func(d digest.Digest) blobcache.Child { return blobcache.Child{Digest: d} }, func(d digest.Digest) blobcache.Child {
		return blobcache.Child{Digest: d, Compound: true}
	}
	for content, want := range map[string][]blobcache.Child{
		`{"schemaVersion":2,"config":{"digest":"` + string(a) + `"},"layers":[{"digest":"` + string(b) + `"},{"digest":"` + string(c) + `"}],"subject":{"digest":"x"}}`: {leaf(b), leaf(c), leaf(a)},
		`{"manifests":[{"digest":"` + string(a) + `","platform":{}},{"digest":"` + string(b) + `"}]}`:                                                                   {node(a), node(b)},
		`{"blobs":[{"digest":"` + string(a) + `"}]}`:                                                                    {leaf(a)},
		`{"schemaVersion":1,"fsLayers":[{"blobSum":"` + string(a) + `"}]}`:                                              {leaf(a)},
		`{"architecture":"amd64","config":{"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":["` + string(a) + `"]}}`: nil,
		"\x1f\x8b\x08 layer": nil, "": nil, "[]": nil, `{"layers":"none"}`: nil, `{"layers":[`: nil,
	} {
		got := Children(strings.NewReader(content))
		if len(got) != len(want) {
			t.Errorf("%s: got %v, want %v", content, got, want)
			continue
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: got %v, want %v", content, got[i], want[i])
			}
		}
	}
}
