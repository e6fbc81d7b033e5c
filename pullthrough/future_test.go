package pullthrough

import (
	"testing"
	"time"
)

// TestRefOfTheFuture checks that a tag does not stand still because a process whose clock is
// ahead has recorded it, or because the clock was set back: the next answer of upstream
// replaces what is recorded, in memory and in the storage.
func TestRefOfTheFuture(t *testing.T) {
	f := newFixture(t)
	r := f.repository("red", "team/app")
	image := f.up.PutImage("team/app", "1", random(1, 100))
	for _, digest := range []string{"the same", "another"} {
		m, err := r.ManifestByTag(t.Context(), "1", true)
		if err != nil {
			t.Fatal(err)
		}
		m.Content.Close()
		ref, err := f.config.Index.Ref(t.Context(), r.config.Scope, "1")
		if err != nil {
			t.Fatal(err)
		}
		ref.Checked = time.Now().Add(24 * time.Hour)
		if err := f.config.Index.SetRef(t.Context(), r.config.Scope, "1", ref); err != nil {
			t.Fatal(err)
		}
		if digest == "another" {
			image = f.up.PutImage("team/app", "1", random(2, 100))
		}
		f.restart()
		r = f.repository("red", "team/app")
		m, err = r.ManifestByTag(t.Context(), "1", true)
		f.expectManifest(m, err, "team/app", image.Manifest, Revalidated)
		f.restart()
		r = f.repository("red", "team/app")
		m, err = r.ManifestByTag(t.Context(), "1", true)
		f.expectManifest(m, err, "team/app", image.Manifest, Hit)
	}
}
