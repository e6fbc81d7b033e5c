package pullthrough

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// An upstream may name anything in its manifests. What is no digest fails, and nothing
// is asked about it.
func TestRepositoryWarmInvalidDigests(t *testing.T) {
	for _, name := range []string{"x", ":", "sha256:", "sha256:../../../etc/passwd", "md5:" + strings.Repeat("0", 32), "sha256:" + strings.Repeat("A", 64)} {
		for what, format := range map[string]string{
			v1.MediaTypeImageManifest: `{"schemaVersion":2,"config":{"digest":"%s","size":3},"layers":[{"digest":"%[1]s","size":3}]}`,
			v1.MediaTypeImageIndex:    `{"schemaVersion":2,"manifests":[{"digest":"%s","size":3}]}`,
		} {
			f := newFixture(t)
			f.up.PutManifest("team/app", what, fmt.Appendf(nil, format, name), "1")
			if _, err := f.warm(f.repository("red", "team/app")); err == nil {
				t.Errorf("%s %q: got no error, want one", what, name)
			}
			f.expectCounts(what+" "+name, registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
		}
	}
}

// TestRepositoryWarmBounds checks that an upstream that nests indexes without end, or
// names more than there is, is not followed without end.
func TestRepositoryWarmBounds(t *testing.T) {
	f := newFixture(t)
	inner, chain := f.up.PutImage("team/app", "", random(1, 100)).Manifest, 0
	for ; chain < 100; chain++ {
		inner = f.up.PutManifest("team/app", v1.MediaTypeImageIndex, fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"digest":"%s","size":1}]}`, inner), "1")
	}
	if p, err := f.warm(f.repository("red", "team/app")); err != nil || p.Manifests != chain+1 || p.Blobs != 2 {
		t.Errorf("nested indexes: got %+v, error %v; want %d manifests and 2 blobs", p, err, chain+1)
	}
	var names []string
	for i := range maxWarmed {
		names = append(names, fmt.Sprintf(`{"digest":"%s","size":1}`, digest.FromString(fmt.Sprint(i))))
	}
	f.up.PutManifest("team/app", v1.MediaTypeImageManifest, fmt.Appendf(nil, `{"schemaVersion":2,"layers":[%s]}`, strings.Join(names[:30], ",")), "1")
	if _, err := f.warm(f.repository("red", "team/app", freshFor(0))); err == nil || strings.Count(err.Error(), "\n") != maxFailures || !strings.HasSuffix(err.Error(), "\n20 more failures") {
		t.Errorf("missing layers: got error %v, want %d failures and the number of the others", err, maxFailures)
	}
	f.up.Reset()
	f.up.PutManifest("team/app", v1.MediaTypeImageManifest, fmt.Appendf(nil, `{"schemaVersion":2,"layers":[%s]}`, strings.Join(names, ",")), "1")
	if _, err := f.warm(f.repository("red", "team/app", freshFor(0))); err == nil || err.Error() != "the image has more than 10000 manifests and blobs" || f.up.Counts().BlobGet != 0 {
		t.Errorf("too many layers: got error %v and the requests %+v, want no request for a blob", err, f.up.Counts())
	}
}
