package pullthrough

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// pull pulls a tag and what an index names first, and returns the digest of the tag.
func (f *fixture) pull(r *Repository, tag string) (digest.Digest, Status, error) {
	m, err := r.ManifestByTag(f.t.Context(), tag, true)
	if err != nil {
		return "", Miss, err
	}
	content := contentOf(f.t, m)
	m.Content.Close()
	if children := readChildren(bytes.NewReader(content)); len(children) > 0 && children[0].Compound {
		image, err := r.ManifestByDigest(f.t.Context(), children[0].Digest, true)
		image.Content.Close()
		return m.Digest, m.Status, err
	}
	return m.Digest, m.Status, nil
}

// TestScarceBudgetSendsHead checks that a cached tag costs no pull while few are left,
// even if HEAD does not tell what the tag stands for.
func TestScarceBudgetSendsHead(t *testing.T) {
	for name, option := range map[string]registrytest.Option{
		"without a digest": registrytest.WithoutDigestHeader(), "without HEAD": registrytest.WithoutHead(), "as usual": registrytest.WithPullLimit(100),
	} {
		f := newFixture(t, registrytest.WithPullLimit(100), option)
		image := f.up.PutImage("team/app", "1", random(1, 100))
		r := f.repository("red", "team/app", freshFor(0))
		m, err := r.ManifestByTag(t.Context(), "1", true)
		f.expectManifest(m, err, "team/app", image.Manifest, Miss)
		f.up.ResetPulls(81)
		f.up.PutImage("team/app", "2", random(2, 100))
		if _, _, err := f.pull(r, "2"); err != nil { // which tells the budget
			t.Errorf("%s: a tag that is not cached: got %v, want the manifest", name, err)
		}
		used := f.up.Pulls()
		want := Stale
		if name == "as usual" {
			want = Revalidated
		}
		for range 5 {
			if _, status, err := f.pull(r, "1"); err != nil || status != want {
				t.Errorf("%s: got status %d and error %v, want %d", name, status, err, want)
			}
		}
		if got := f.up.Pulls(); got != used {
			t.Errorf("%s: got %d pulls for a cached tag, want none", name, got-used)
		}
	}
}

// TestScarceBudgetInOrderOfUse checks that tags that have moved are fetched one by one,
// the most used one first.
func TestScarceBudgetInOrderOfUse(t *testing.T) {
	f := newFixture(t, registrytest.WithPullLimit(100))
	r := f.repository("red", "team/app", freshFor(0))
	tags := []string{"first", "rare", "frequent", "medium"}
	for i, tag := range tags {
		f.up.PutImage("team/app", tag, random(byte(i), 100))
		if _, _, err := f.pull(r, tag); err != nil {
			t.Fatal(err)
		}
	}
	f.up.ResetPulls(90)
	for tag, pulls := range map[string]int{"first": 1, "rare": 2, "frequent": 9, "medium": 5} {
		for range pulls {
			if _, _, err := f.pull(r, tag); err != nil {
				t.Fatal(err)
			}
		}
	}
	moved := make(map[string]string) // by the path of the manifest
	for i, tag := range tags {
		moved["/v2/team/app/manifests/"+string(f.up.PutImage("team/app", tag, random(byte(10+i), 100)).Manifest)] = tag
	}
	var mu sync.Mutex
	var fetched []string
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	f.up.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
		if tag := moved[req.URL.Path]; req.Method == http.MethodGet && tag != "" {
			mu.Lock()
			fetched = append(fetched, tag)
			mu.Unlock()
			if tag == "first" {
				arrived <- struct{}{}
				<-release
			}
		}
		return false
	})
	var pulls sync.WaitGroup
	pull := func(tag string) {
		pulls.Go(func() {
			if _, status, err := f.pull(r, tag); err != nil || status != Revalidated {
				t.Errorf("tag %s: got status %d and error %v, want %d", tag, status, err, Revalidated)
			}
		})
	}
	pull("first")
	<-arrived
	for i, tag := range tags[1:] {
		pull(tag)
		eventually(t, tag+" waits", func() bool { return f.config.Registry.States()[0].PullsWaiting == i+1 })
	}
	close(release)
	pulls.Wait()
	if want := []string{"first", "frequent", "medium", "rare"}; !slices.Equal(fetched, want) {
		t.Errorf("got the order %v, want %v", fetched, want)
	}
}

// TestScarceBudgetStretchesFreshness checks that tags stay fresh longer while few pulls
// are left.
func TestScarceBudgetStretchesFreshness(t *testing.T) {
	f := newFixture(t, registrytest.WithPullLimit(100))
	f.up.PutImage("team/app", "1", random(1, 100))
	r := f.repository("red", "team/app", freshFor(0))
	for used, want := range map[int]time.Duration{0: time.Hour, 80: time.Hour, 90: 150 * time.Minute, 100: 4 * time.Hour} {
		f.up.ResetPulls(used)
		_, _ = r.config.Registry.HeadTag(t.Context(), "team/app", "1", 0)
		if got := r.stretched(time.Hour); got != want {
			t.Errorf("%d of 100 used: got %v, want %v", used, got, want)
		}
		if got := r.stretched(1<<63 - 1); got != 1<<63-1 {
			t.Errorf("%d of 100 used: got %v for the longest duration, want it", used, got)
		}
	}
}

// TestColdTagAtRateLimit checks that pulls in a row of a tag that is not cached make one
// request while upstream limits requests.
func TestColdTagAtRateLimit(t *testing.T) {
	f := newFixture(t)
	f.up.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"30"}}})
	r := f.repository("red", "team/app")
	for range 10 {
		_, _, err := f.pull(r, "cold")
		expectKind(t, err, upstream.RateLimited)
	}
	f.expectCounts("ten pulls", registrytest.Counts{ManifestHead: 1})
}

// TestColdTagWithoutPulls is the same for an upstream whose budget is used up, which
// answers HEAD. Each tag is asked about once until Retry-After is over, and one request
// finds the limit.
func TestColdTagWithoutPulls(t *testing.T) {
	f := newFixture(t, registrytest.WithPullLimit(10))
	f.config.Absences = NewAbsences().Own()
	f.up.PutImage("team/app", "cold", random(1, 100))
	f.up.ResetPulls(10)
	r := f.repository("red", "team/app")
	pull := func(tag string) {
		for range 10 {
			_, _, err := f.pull(r, tag)
			expectKind(t, err, upstream.RateLimited)
			var failure *upstream.Error
			if !errors.As(err, &failure) || failure.RetryAfter <= 0 || failure.RetryAfter > time.Minute {
				t.Errorf("got %v, want an error with the rest of Retry-After", err)
			}
		}
	}
	pull("cold")
	f.expectCounts("ten pulls", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
	f.up.PutImage("team/app", "other", random(2, 100))
	pull("other")
	f.expectCounts("ten pulls of another tag", registrytest.Counts{ManifestHead: 1})
}

// TestHubLimit pulls indexes, some of which move, from a registry with Docker Hub's
// limit. No client may notice, and each pull at the registry fetches what has moved.
func TestHubLimit(t *testing.T) {
	const tags, pulls, limit = 20, 1000, 50
	f := newFixture(t, registrytest.WithPullLimit(limit))
	r := f.repository("red", "team/app", freshFor(0))
	put := func(tag, version int) {
		f.up.PutIndex("team/app", fmt.Sprint(tag), f.up.PutImage("team/app", "", fmt.Appendf(nil, "%d %d", tag, version)))
	}
	for tag := range tags {
		put(tag, 0)
		if _, _, err := f.pull(r, fmt.Sprint(tag)); err != nil {
			t.Fatal(err)
		}
	}
	f.up.ResetPulls(0)
	moves := 0
	for i := range pulls {
		if i%40 == 39 {
			moves++
			put(i%tags, i)
		}
		if _, _, err := f.pull(r, fmt.Sprint(i*7%tags)); err != nil {
			t.Fatalf("pull %d, after %d moves: got %v, want an image", i, moves, err)
		}
	}
	if got := f.up.Pulls(); got > limit || got < 20 {
		t.Errorf("got %d pulls at the registry after %d moves, want at most %d", got, moves, limit)
	}
	f.up.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"60"}}, Body: "Too Many Requests (HAP429).\n"})
	f.up.Reset()
	for i := range pulls {
		put(i%tags, pulls+i)
		if _, status, err := f.pull(r, fmt.Sprint(i%tags)); err != nil || status != Stale {
			t.Fatalf("pull %d at the abuse limit: got status %d and error %v, want a stale image", i, status, err)
		}
	}
	if got := f.up.Counts(); got.ManifestGet+got.ManifestHead > 1 {
		t.Errorf("got requests %+v at the abuse limit, want one", got)
	}
}
