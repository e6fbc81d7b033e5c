package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// pair is a client for two registries with the same content, and a clock for their
// pauses.
type pair struct {
	*Mirrors
	a, b  *registrytest.Registry
	image registrytest.Image
	layer digest.Digest

	elapsed atomic.Int64 // a time.Duration
	mu      sync.Mutex
	paused  []time.Duration // that Hooks.Paused was told
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{a: registrytest.New(t), b: registrytest.New(t)}
	content := []byte(strings.Repeat("0123456789", 1000))
	for _, r := range []*registrytest.Registry{p.a, p.b} {
		p.image, p.layer = r.PutImage("app", "1", content), digest.FromBytes(content)
	}
	hooks := func(c *Config) {
		c.Hooks.Paused = func(_ string, pause time.Duration, _ error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.paused = append(p.paused, pause)
		}
	}
	start := time.Now()
	registries := []*Registry{client(t, p.a, hooks), client(t, p.b, hooks)}
	for _, r := range registries {
		r.now = func() time.Time { return start.Add(time.Duration(p.elapsed.Load())) }
	}
	p.Mirrors = NewMirrors(registries[0], registries[1:]...)
	return p
}

// pass lets time pass for the pauses.
func (p *pair) pass(d time.Duration) { p.elapsed.Add(int64(d)) }

// pull asks for a manifest.
func (p *pair) pull(t *testing.T) error {
	t.Helper()
	_, err := p.Manifest(t.Context(), "app", "1")
	return err
}

// expectAsked pulls, and compares how many requests for manifests the registries
// receive.
func (p *pair) expectAsked(t *testing.T, what string, a, b int) {
	t.Helper()
	p.a.Reset()
	p.b.Reset()
	if err := p.pull(t); err != nil {
		t.Errorf("%s: got error %v, want a manifest", what, err)
	}
	if gotA, gotB := p.a.Counts().ManifestGet, p.b.Counts().ManifestGet; gotA != a || gotB != b {
		t.Errorf("%s: got %d requests to the first address and %d to the second, want %d and %d", what, gotA, gotB, a, b)
	}
}

// questions are the methods of Mirrors.
var questions = map[string]func(context.Context, *pair) error{
	"ResolveManifest": func(ctx context.Context, p *pair) error {
		_, err := p.ResolveManifest(ctx, "app", "1")
		return err
	},
	"Manifest": func(ctx context.Context, p *pair) error {
		_, err := p.Manifest(ctx, "app", "1")
		return err
	},
	"ResolveTag": func(ctx context.Context, p *pair) error {
		_, err := p.ResolveTag(ctx, "app", "1", 0)
		return err
	},
	"RefetchTag": func(ctx context.Context, p *pair) error {
		_, err := p.RefetchTag(ctx, "app", "1", 0)
		return err
	},
	"StatBlob": func(ctx context.Context, p *pair) error {
		_, err := p.StatBlob(ctx, "app", p.layer, -1)
		return err
	},
	"Blob": func(ctx context.Context, p *pair) error {
		b, err := p.Blob(ctx, "app", p.layer, 0, -1, "")
		if err != nil {
			return err
		}
		return b.Close()
	},
	"Tags": func(ctx context.Context, p *pair) error {
		_, err := p.Tags(ctx, "app", url.Values{})
		return err
	},
	"Referrers": func(ctx context.Context, p *pair) error {
		_, err := p.Referrers(ctx, "app", p.layer, "")
		return err
	},
}

// outages make a registry unable to answer.
var outages = map[string]func(*pair){
	"down": func(p *pair) { p.a.Close() },
	"500":  func(p *pair) { p.a.Fail(registrytest.Failure{Status: http.StatusInternalServerError}) },
	"503":  func(p *pair) { p.a.Fail(registrytest.Failure{Status: http.StatusServiceUnavailable}) },
	"429":  func(p *pair) { p.a.Fail(registrytest.Failure{Status: http.StatusTooManyRequests}) },
	"slow header": func(p *pair) {
		p.registries[0].timeout = 50 * time.Millisecond
		p.a.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
			<-req.Context().Done()
			return true
		})
	},
}

func TestMirrorsAskTheNextAddressInAnOutage(t *testing.T) {
	for outage, begin := range outages {
		for name, question := range questions {
			t.Run(outage+"/"+name, func(t *testing.T) {
				t.Parallel()
				p := newPair(t)
				if err := question(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				if got := p.b.Counts(); got != (registrytest.Counts{}) {
					t.Errorf("got requests %+v to the second address while the first works, want none", got)
				}
				begin(p)
				for range 2 {
					if err := question(t.Context(), p); err != nil {
						t.Errorf("got error %v, want the answer of the second address", err)
					}
				}
				if p.registries[0].pause.State().Cause == nil {
					t.Error("got no pause of the first address, want one")
				}
			})
		}
	}
}

func TestMirrorsAcceptEachAnswerOfTheFirstAddress(t *testing.T) {
	for status, kind := range map[int]Kind{404: ManifestUnknown, 401: Denied, 403: Denied, 400: Invalid} {
		p := newPair(t)
		p.a.Fail(registrytest.Failure{Op: registrytest.OpManifest, Status: status})
		wantKind(t, p.pull(t), kind)
		if got := p.b.Counts(); got != (registrytest.Counts{}) {
			t.Errorf("%d: got requests %+v to the second address, want none", status, got)
		}
		p.a.Heal()
		p.expectAsked(t, "after the answer", 1, 0)
	}
}

func TestMirrorsPause(t *testing.T) {
	p := newPair(t)
	p.a.Fail(registrytest.Failure{Status: http.StatusBadGateway})
	for i, length := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		p.expectAsked(t, "before the pause", 1, 1)
		if len(p.paused) != i+1 || !isPause(p.paused[i], length*time.Second) {
			t.Fatalf("got reports of pauses %v, want a last one of %v or up to a fifth less", p.paused, length*time.Second)
		}
		p.pass(p.paused[i] - 1)
		p.expectAsked(t, "during the pause", 0, 1)
		p.pass(1)
	}
	p.a.Heal()
	p.expectAsked(t, "after the outage", 1, 0)
	p.expectAsked(t, "after an answer", 1, 0)
	p.a.Fail(registrytest.Failure{Status: http.StatusBadGateway, Times: 1})
	p.expectAsked(t, "in the next outage", 1, 1)
	p.pass(time.Second)
	p.expectAsked(t, "a second later", 1, 0)
	if got := len(p.paused); got != 9 || p.paused[8] != time.Second {
		t.Errorf("got reports of pauses %v, want a ninth one of 1s", p.paused)
	}
}

func TestMirrorsKeepRetryAfter(t *testing.T) {
	p := newPair(t)
	p.a.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"600"}}})
	p.expectAsked(t, "at the limit", 1, 1)
	p.pass(599 * time.Second)
	p.expectAsked(t, "before Retry-After", 0, 1)
	p.b.Fail(registrytest.Failure{Status: http.StatusBadGateway})
	err := p.pull(t)
	var e *Error
	if !errors.As(err, &e) || e.Kind != RateLimited || e.RetryAfter != time.Second {
		t.Errorf("got error %v, want the limit of the first address and the rest of its Retry-After", err)
	}
	p.pass(time.Second)
	p.a.Heal()
	p.expectAsked(t, "after Retry-After", 1, 0)
}

// TestMirrorsTrial checks that one request tries an address after a pause, and that
// requests that fail together count as one failure.
func TestMirrorsTrial(t *testing.T) {
	p := newPair(t)
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	fail := func(w http.ResponseWriter, _ *http.Request) bool {
		arrived <- struct{}{}
		<-release
		w.WriteHeader(http.StatusBadGateway)
		return true
	}
	p.a.SetFault(fail)
	var pulls sync.WaitGroup
	pullInBackground := func() {
		pulls.Go(func() {
			if err := p.pull(t); err != nil {
				t.Error(err)
			}
		})
		<-arrived
	}
	for range 4 {
		pullInBackground()
	}
	close(release)
	pulls.Wait()
	if got := p.paused; len(got) != 1 || got[0] != time.Second {
		t.Errorf("got pauses %v after four failures at once, want one of 1s", got)
	}
	p.pass(time.Second)
	release = make(chan struct{})
	p.a.SetFault(fail)
	pullInBackground()
	p.expectAsked(t, "during the trial", 0, 1)
	close(release)
	pulls.Wait()
	p.a.Heal()
	p.pass(p.paused[1] - 1)
	p.expectAsked(t, "after the trial", 0, 1)
}

func TestMirrorsGiveTheTrialBack(t *testing.T) {
	p := newPair(t)
	p.a.Fail(registrytest.Failure{Status: http.StatusBadGateway, Times: 1})
	p.expectAsked(t, "in the outage", 1, 1)
	p.pass(time.Second)
	p.a.Reset()
	ctx, leave := context.WithCancel(t.Context())
	p.a.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
		leave()
		<-req.Context().Done()
		return true
	})
	if _, err := p.Manifest(ctx, "app", "1"); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that of the context", err)
	}
	for p.a.Counts().ManifestGet < 1 {
		time.Sleep(time.Millisecond) // until the registry has counted the request
	}
	p.a.Heal()
	p.expectAsked(t, "after a client has left", 1, 0)
}
