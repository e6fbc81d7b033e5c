package blobcache

import (
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
)

// TestQuotasPurge checks that Purge removes all links and refs of an owner and its subgroups, and
// PurgeScope those of one scope, and that a round then removes the content without links.
func TestQuotasPurge(t *testing.T) {
	e := newQuotaFixture(t, nil)
	scopes := []string{"acme/_/hub/a", "acme/sub/_/hub/a", "acme/_/hub/a/b", "acmeplus/_/hub/a", "other/_/hub/a"}
	images := make(map[string]digest.Digest)
	for _, scope := range scopes {
		images[scope] = e.pull(scope, "image of "+scope, "layer of "+scope, "shared")
		if err := e.index.SetRef(t.Context(), scope, "latest", index.Ref{Digest: images[scope]}); err != nil {
			t.Fatal(err)
		}
	}
	has := func(scope string) (linked, named, stored bool) {
		t.Helper()
		_, err := e.index.Ref(t.Context(), scope, "latest")
		_, disk := index.New(e.store).Ref(t.Context(), scope, "latest")
		if (err == nil) != (disk == nil) {
			t.Errorf("ref of %s: got the error %v in memory and %v on disk, want both or neither", scope, err, disk)
		}
		_, stored = e.cache.Has(t.Context(), images[scope])
		return e.linked(scope, images[scope]), err == nil, stored
	}
	check := func(gone ...string) {
		t.Helper()
		e.round()
		for _, scope := range scopes {
			want := !slices.Contains(gone, scope)
			if linked, named, stored := has(scope); linked != want || named != want || stored != want {
				t.Errorf("%s: got linked %v, named %v, stored %v; want %v for all", scope, linked, named, stored, want)
			}
		}
		if _, stored := e.cache.Has(t.Context(), e.layer("shared", 10_000)); !stored {
			t.Error("the content that other scopes link was removed")
		}
	}
	check()
	if n, err := e.quotas.PurgeScope(t.Context(), "acme/_/hub/a"); n != 3 || err != nil {
		t.Errorf("PurgeScope: got %d links and the error %v, want 3 links and no error", n, err)
	}
	check("acme/_/hub/a")
	if n, err := e.quotas.Purge(t.Context(), "acme"); n != 6 || err != nil {
		t.Errorf("Purge: got %d links and the error %v, want 6 links and no error", n, err)
	}
	check("acme/_/hub/a", "acme/sub/_/hub/a", "acme/_/hub/a/b")
	if n, err := e.quotas.Purge(t.Context(), "nobody"); n != 0 || err != nil {
		t.Errorf("Purge of an unknown owner: got %d links and the error %v, want 0 links and no error", n, err)
	}
}
