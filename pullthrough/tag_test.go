package pullthrough

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

func TestRepositoryTagIsRevalidated(t *testing.T) {
	f := newFixture(t)
	image := f.up.PutImage("team/app", "1", random(1, 100))
	expect := func(r *Repository, want Status) {
		t.Helper()
		m, err := r.ManifestByTag(t.Context(), "1", true)
		f.expectManifest(m, err, "team/app", image.Manifest, want)
	}
	expect(f.repository("red", "team/app"), Miss)
	f.expectCounts("an unknown tag", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
	expect(f.repository("red", "team/app"), Hit)
	f.expectCounts("a fresh tag", registrytest.Counts{})
	expect(f.repository("red", "team/app", freshFor(0)), Revalidated)
	f.expectCounts("a tag that is not fresh", registrytest.Counts{ManifestHead: 1})
	image = f.up.PutImage("team/app", "1", random(2, 100))
	expect(f.repository("red", "team/app", freshFor(0)), Revalidated)
	f.expectCounts("a tag that has moved", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
	if len(f.stale) != 0 {
		t.Errorf("got stale tags %q, want none", f.stale)
	}
}

// A tag that has moved is recorded only after its new content has been stored.
func TestRepositoryTagKeepsImageUntilNextIsStored(t *testing.T) {
	f, r, old := newPulled(t)
	f.up.PutImage("team/app", "1", random(2, 100))
	f.up.Fail(registrytest.Failure{Method: http.MethodGet, Status: http.StatusInternalServerError})
	for range 2 {
		m, err := r.ManifestByTag(t.Context(), "1", true)
		f.expectManifest(m, err, "team/app", old.Manifest, Stale)
	}
	if !slices.Equal(f.stale, []string{"1"}) {
		t.Errorf("got reports of stale tags %q, want one: upstream is not asked again at once", f.stale)
	}
}

// What was pulled stays available after upstream has deleted it.
func TestRepositoryTagOfDeletedImage(t *testing.T) {
	f, r, image := newPulled(t)
	content := f.up.RawManifest("team/app", image.Manifest)
	f.up.DeleteRepository("team/app")
	m, err := r.ManifestByTag(t.Context(), "1", true)
	if err != nil || m.Status != Stale || m.Digest != image.Manifest || string(contentOf(t, m)) != string(content) {
		t.Errorf("got %+v, error %v; want a stale answer with %s", m, err, image.Manifest)
	}
	_, err = r.ManifestByTag(t.Context(), "2", true)
	expectKind(t, err, upstream.ManifestUnknown)
}

// An answer is stale also if upstream sends the content of a tag that it does not confirm.
func TestRepositoryTagStaleWithoutContent(t *testing.T) {
	f, r, image := newPulled(t)
	if err := f.records.Records.(store.Blobs).Remove(t.Context(), image.Manifest); err != nil {
		t.Fatal(err)
	}
	f.up.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		denied := strings.HasSuffix(req.URL.Path, "/manifests/1")
		if denied {
			w.WriteHeader(http.StatusForbidden)
		}
		return denied
	})
	f.up.Reset()
	m, err := r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", image.Manifest, Stale)
	if got := f.up.Counts().ManifestGet; m.Reason != Denied || got == 0 {
		t.Errorf("got the reason %s and %d downloads, want %s and one", m.Reason, got, Denied)
	}
}

// A request that its client has ended is not answered with stale content.
func TestRepositoryTagAfterClientHasLeft(t *testing.T) {
	f, r, _ := newPulled(t)
	f.up.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
		<-req.Context().Done()
		return true
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if m, err := r.ManifestByTag(ctx, "1", true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, error %v; want %v", m, err, context.DeadlineExceeded)
	}
}

func TestRepositoryTagWithoutRecords(t *testing.T) {
	f := newFixture(t)
	f.records.fails = true
	image := f.up.PutImage("team/app", "1", random(1, 100))
	m, err := f.repository("red", "team/app").ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	if !slices.ContainsFunc(f.failed, func(err error) bool { return strings.HasPrefix(err.Error(), "recording the tag 1: ") }) {
		t.Errorf("got reports %v, want one of the tag", f.failed)
	}
}

func TestHoldAfter(t *testing.T) {
	for _, row := range []struct {
		err  error
		want time.Duration
	}{
		{errors.New("x"), staleHold},
		{&upstream.Error{}, staleHold},
		{&upstream.Error{RetryAfter: time.Second}, staleHold},
		{&upstream.Error{RetryAfter: time.Minute}, time.Minute},
		{&upstream.Error{RetryAfter: time.Hour}, maxStaleHold},
	} {
		if got := holdAfter(row.err); got != row.want {
			t.Errorf("%#v: got %v, want %v", row.err, got, row.want)
		}
	}
}
