package pullthrough

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
)

const dockerImage = "application/vnd.docker.distribution.manifest.v2+json"

// newChoice returns a fixture whose upstream has the tag 1 as an index, and as a
// Docker image for clients that accept nothing but that.
func newChoice(t *testing.T) (f *fixture, preferred, offered digest.Digest) {
	f = newFixture(t)
	preferred = f.up.PutIndex("team/app", "1", f.up.PutImage("team/app", "", random(1, 100)))
	offered = f.up.PutManifest("team/app", dockerImage, []byte(`{"schemaVersion":2,"mediaType":"`+dockerImage+`","config":{},"layers":[]}`))
	f.up.Offer("team/app", "1", offered)
	return f, preferred, offered
}

func accepting(types ...string) func(*Config) {
	return func(c *Config) { c.Accept = mediatype.ParseAccept(types) }
}

// A client that does not accept what upstream prefers gets what upstream chooses for
// it. Other clients are not affected.
func TestRepositoryChoice(t *testing.T) {
	f, preferred, offered := newChoice(t)
	for _, row := range []struct {
		what   string
		accept []string
		want   digest.Digest
		status Status
		counts registrytest.Counts
	}{
		{"one type", []string{dockerImage}, offered, Miss, registrytest.Counts{ManifestHead: 2, ManifestGet: 1}},
		{"any type", nil, preferred, Miss, registrytest.Counts{ManifestHead: 1, ManifestGet: 1}},
		{"one type again", []string{dockerImage}, offered, Hit, registrytest.Counts{}},
		{"any type again", nil, preferred, Hit, registrytest.Counts{}},
		{"more types", []string{dockerImage, v1.MediaTypeImageIndex}, preferred, Hit, registrytest.Counts{}},
	} {
		r := f.repository("red", "team/app", accepting(row.accept...))
		m, err := r.ManifestByTag(t.Context(), "1", true)
		f.expectManifest(m, err, "team/app", row.want, row.status)
		f.expectCounts(row.what, row.counts)
		m, err = r.ManifestByTag(t.Context(), "1", false)
		f.expectManifest(m, err, "team/app", row.want, Hit)
		m, err = r.ManifestByDigest(t.Context(), row.want, true)
		f.expectManifest(m, err, "team/app", row.want, Hit)
		f.expectCounts("HEAD, and by digest: "+row.what, registrytest.Counts{})
	}
}

// Where upstream offers no choice, the client gets what upstream prefers, under its
// own type, and upstream is not asked each time.
func TestRepositoryChoiceThatIsNotOffered(t *testing.T) {
	for what, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"ignored": nil,
		"404":     refusing(http.StatusNotFound),
		"406":     refusing(http.StatusNotAcceptable),
	} {
		f, preferred, _ := newChoice(t)
		f.up.SetFault(fault)
		r := f.repository("red", "team/app", accepting(v1.MediaTypeImageManifest))
		for i, status := range []Status{Miss, Hit, Hit} {
			m, err := r.ManifestByTag(t.Context(), "1", true)
			f.expectManifest(m, err, "team/app", preferred, status)
			if m.MediaType != v1.MediaTypeImageIndex {
				t.Errorf("%s: got the type %s, want %s", what, m.MediaType, v1.MediaTypeImageIndex)
			}
			if i == 0 {
				f.up.Reset() // the ref is recorded before the content is here, so the next pull asks
			}
		}
		if got := f.up.Counts(); got.ManifestHead > 1 || got.ManifestGet > 1 {
			t.Errorf("%s: got requests %+v, want at most one HEAD and GET", what, got)
		}
	}
}

// refusing makes upstream refuse requests that accept an image only.
func refusing(status int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, req *http.Request) bool {
		if req.Header.Get("Accept") != v1.MediaTypeImageManifest {
			return false
		}
		w.WriteHeader(status)
		return true
	}
}

// What upstream chooses is revalidated like the tag, and stays available.
func TestRepositoryChoiceIsRevalidated(t *testing.T) {
	f, _, offered := newChoice(t)
	r := f.repository("red", "team/app", accepting(dockerImage), freshFor(0))
	m, err := r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", offered, Miss)
	next := f.up.PutManifest("team/app", dockerImage, []byte(`{"schemaVersion":2,"mediaType":"`+dockerImage+`","config":{},"layers":[],"new":1}`))
	f.up.Offer("team/app", "1", next)
	m, err = r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", next, Revalidated)
	f.up.Fail(registrytest.Failure{Status: http.StatusInternalServerError})
	for range 2 {
		m, err = r.ManifestByTag(t.Context(), "1", true)
		f.expectManifest(m, err, "team/app", next, Stale)
	}
}

// A client that upstream offers nothing of what it accepts waits no longer for a silent
// upstream than other clients, and upstream is not asked each time if it refuses.
func TestRepositoryChoicePatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		expect := func(want Status, took time.Duration) {
			t.Helper()
			begin := time.Now()
			m, err := f.repository("red", "team/app", accepting(dockerImage)).ManifestByTag(t.Context(), "1", true)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Content.Close()
			if m.Status != want || time.Since(begin) != took || m.MediaType != v1.MediaTypeImageManifest {
				t.Errorf("got %+v after %v, want status %d after %v", m.Origin, time.Since(begin), want, took)
			}
		}
		expect(Hit, 0) // and upstream is asked to choose
		time.Sleep(time.Minute)
		f.expectPull("1", Origin{Status: Revalidated}, manifestNumber("1"), 0)
		up.set(func(u *clocked) { u.delay = never })
		expect(Hit, 500*time.Millisecond)
		expect(Hit, 0)
		time.Sleep(metadataLimit) // until the question ends
	})
}
