package caddymodule

import (
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestClaimIsNoUse: a tag of an upstream that names content of another upstream does
// not keep that content from being evicted. A pull of the content does.
func TestClaimIsNoUse(t *testing.T) {
	red, evil := registrytest.New(t), registrytest.New(t)
	lines := []string{users("alice", "bob"), private("red", "alice"), private("blue", "bob"), hub(red), at(blue, evil.URL())}
	s := start(t, lines...)
	image := red.PutImage("team/secret", "1", random(1, 5000))
	pull(t, s, "red", "team/secret", "1", as("alice"))
	evil.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Docker-Content-Digest", string(image.Manifest))
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Content-Length", strconv.Itoa(len(red.RawManifest("team/secret", image.Manifest))))
		return true
	})
	idle := func(path, name string) bool {
		t.Helper()
		s.stop()
		then := make(map[string]time.Time)
		for _, d := range append(image.Layers, image.Manifest) {
			info, err := os.Stat(s.blobFile(d))
			if err != nil {
				t.Fatal(err)
			}
			then[s.blobFile(d)] = info.ModTime().Add(-48 * time.Hour)
			if err := os.Chtimes(s.blobFile(d), time.Time{}, then[s.blobFile(d)]); err != nil {
				t.Fatal(err)
			}
		}
		s.load(lines...)
		s.head(path, as(name)).expect(t, http.StatusOK, "")
		s.stop()
		for name, at := range then {
			if info, err := os.Stat(name); err != nil || !info.ModTime().Equal(at) {
				return false
			}
		}
		return true
	}
	for _, reference := range []string{"1", string(image.Manifest)} {
		if !idle(manifestPath("blue", blue+"/x/y", reference), "bob") {
			t.Errorf("%s: what an upstream only says to have counts as used", reference)
		}
		if idle(manifestPath("red", "team/secret", reference), "alice") {
			t.Errorf("%s: what was asked for does not count as used", reference)
		}
	}
}
