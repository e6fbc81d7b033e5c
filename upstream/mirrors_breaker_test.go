package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// maxHold is the longest pause that Retry-After can demand.
const maxHold = 10 * time.Minute

// single is a client for a registry with a single address, and a clock.
type single struct {
	*Mirrors
	up       *registrytest.Registry
	registry *Registry

	elapsed atomic.Int64 // a time.Duration
	mu      sync.Mutex
	changes []Change // that Hooks.Changed was told
}

// newSingle returns a client for a registry with the repositories a, b and c.
func newSingle(t *testing.T, options ...registrytest.Option) *single {
	t.Helper()
	s := &single{up: registrytest.New(t, options...)}
	for _, repository := range []string{"a", "b", "c"} {
		s.up.PutImage(repository, "1", []byte(strings.Repeat(repository, 10_000)))
	}
	s.registry = client(t, s.up, func(c *Config) {
		c.Hooks.Changed = func(change Change, _ State) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changes = append(s.changes, change)
		}
	})
	start := time.Now()
	s.registry.now = func() time.Time { return start.Add(time.Duration(s.elapsed.Load())) }
	s.Mirrors = NewMirrors(s.registry)
	return s
}

func (s *single) pass(d time.Duration) { s.elapsed.Add(int64(d)) }

// pull asks for the manifest of a tag in each repository, and returns the last error.
func (s *single) pull(t *testing.T, repositories ...string) (err error) {
	t.Helper()
	for _, repository := range repositories {
		_, err = s.ResolveTag(t.Context(), repository, "1", 0)
	}
	return err
}

// expect compares whether the registry is down, and the changes that were reported.
func (s *single) expect(t *testing.T, what string, down bool, changes ...Change) {
	t.Helper()
	if got := s.States()[0].Down; got != down {
		t.Errorf("%s: got down %t, want %t", what, got, down)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if fmt.Sprint(s.changes) != fmt.Sprint(changes) {
		t.Errorf("%s: got changes %v, want %v", what, s.changes, changes)
	}
}

// expectAsked pulls from a repository and compares how many requests that sends.
func (s *single) expectAsked(t *testing.T, what, repository string, want int) error {
	t.Helper()
	s.up.Reset()
	err := s.pull(t, repository)
	if c := s.up.Counts(); c.ManifestHead+c.ManifestGet+c.Ping+c.Token != want {
		t.Errorf("%s: got requests %+v, want %d", what, c, want)
	}
	return err
}

// expectHeld pulls without a request, and checks that the error says so.
func (s *single) expectHeld(t *testing.T, what string, kind Kind) *Error {
	t.Helper()
	e := wantKind(t, s.expectAsked(t, what, "a", 0), kind)
	if !e.Held || kind != RateLimited && e.RetryAfter < time.Second || e.RetryAfter > maxHold {
		t.Errorf("%s: got %v with Held %t and RetryAfter %v, want that it was held, and for how long", what, e, e.Held, e.RetryAfter)
	}
	return e
}

// endings are failures of the endpoint as a whole.
var endings = map[string]func(*single){
	"refused": func(s *single) {
		s.registry.transport = roundTripper(func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF })
	},
	"502": func(s *single) { s.up.Fail(registrytest.Failure{Status: 502}) },
	"503": func(s *single) { s.up.Fail(registrytest.Failure{Status: 503}) },
	"504": func(s *single) { s.up.Fail(registrytest.Failure{Status: 504}) },
	"no header": func(s *single) {
		s.registry.timeout = 20 * time.Millisecond
		s.up.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
			<-req.Context().Done()
			return true
		})
	},
}

func TestBreakerOpensAfterThreeFailuresOfTwoRepositories(t *testing.T) {
	for name, begin := range endings {
		t.Run(name, func(t *testing.T) {
			s := newSingle(t)
			begin(s)
			if err := s.pull(t, "a", "b"); err.(*Error).Held {
				t.Errorf("got %v after two failures, want a request", err)
			}
			s.expect(t, "after two failures", false)
			_ = s.pull(t, "a")
			s.expect(t, "after three failures", true, WentDown)
			kind := Unavailable
			if name == "no header" {
				kind = Timeout
			}
			e := s.expectHeld(t, "while it is down", kind)
			if !strings.Contains(e.Error(), "does not answer") || e.RetryAfter != time.Second {
				t.Errorf("got %v with RetryAfter %v, want that the registry does not answer, and 1s", e, e.RetryAfter)
			}
			if state := s.States()[0]; state.Host != s.up.Host() || state.LastError == "" || state.LastErrorAt.IsZero() || state.DownSince.IsZero() || !state.Until.After(s.registry.now()) {
				t.Errorf("got state %+v, want the host, the error and the times", state)
			}
		})
	}
}

// isPause reports whether a pause is of a length, from which up to a fifth is taken at
// random.
func isPause(pause, length time.Duration) bool { return pause <= length && pause >= length*4/5 }

// TestBreakerTrials checks the pauses of a registry that is down, and its recovery.
func TestBreakerTrials(t *testing.T) {
	s := newSingle(t)
	s.up.Fail(registrytest.Failure{Status: http.StatusBadGateway})
	_ = s.pull(t, "a", "b", "a")
	for _, pause := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		left := s.States()[0].Until.Sub(s.registry.now())
		if !isPause(left, pause*time.Second) {
			t.Errorf("got a pause of %v, want %v or up to a fifth less", left, pause*time.Second)
		}
		s.pass(left - 1)
		s.expectHeld(t, "during a pause", Unavailable)
		s.pass(1)
		if err := s.expectAsked(t, "the trial", "b", 1); err.(*Error).Held {
			t.Errorf("got %v, want the error of the trial", err)
		}
	}
	s.expect(t, "after eight trials", true, WentDown)
	s.up.Heal()
	s.pass(time.Minute)
	for _, requests := range []int{2, 1} { // the trial begins with a version check
		if err := s.expectAsked(t, "after the outage", "a", requests); err != nil {
			t.Error(err)
		}
		s.expect(t, "after the outage", false, WentDown, CameUp)
	}
	if state := s.States()[0]; !state.Until.IsZero() || state.LastError == "" {
		t.Errorf("got state %+v, want no pause, and the last error", state)
	}
	s.up.Fail(registrytest.Failure{Status: http.StatusBadGateway})
	_ = s.pull(t, "a", "b")
	s.expect(t, "after two more failures", false, WentDown, CameUp)
	_ = s.pull(t, "a")
	s.expect(t, "after three more failures", true, WentDown, CameUp, WentDown)
}

// beDown makes the registry be down, at the end of a pause.
func (s *single) beDown(t *testing.T) {
	t.Helper()
	s.up.Fail(registrytest.Failure{Status: http.StatusBadGateway})
	_ = s.pull(t, "a", "b", "c")
	s.expect(t, "after three failures", true, WentDown)
	s.up.Heal()
	s.pass(time.Minute) // the longest pause
}

// TestBreakerOneTrialAtATime checks that all requests but the trial fail at once.
func TestBreakerOneTrialAtATime(t *testing.T) {
	s := newSingle(t)
	s.beDown(t)
	arrived, release := make(chan string), make(chan struct{})
	s.up.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
		arrived <- req.URL.Path
		<-release
		return false
	})
	trial := make(chan error)
	go func() { trial <- s.pull(t, "a") }()
	for _, path := range []string{"/v2/", "/v2/a/manifests/1"} {
		if got := <-arrived; got != path {
			t.Errorf("got a request for %s, want %s", got, path)
		}
		for range 5 {
			var e *Error
			if err := s.pull(t, "b"); !errors.As(err, &e) || !e.Held {
				t.Errorf("got %v during the trial, want that it was held", err)
			}
		}
		release <- struct{}{}
	}
	if err := <-trial; err != nil {
		t.Error(err)
	}
	s.up.Heal()
	if err := s.pull(t, "b"); err != nil {
		t.Errorf("got %v after the trial, want an answer", err)
	}
}

// TestBreakerTrialFailsLate checks that the trial fails when a registry answers the
// version check and nothing else.
func TestBreakerTrialFailsLate(t *testing.T) {
	s := newSingle(t)
	s.beDown(t)
	s.up.Fail(registrytest.Failure{Op: registrytest.OpManifest, Status: http.StatusBadGateway})
	if e := wantKind(t, s.expectAsked(t, "the trial", "a", 3), Unavailable); e.Held {
		t.Errorf("got %v, want the error of the trial", e)
	}
	s.expectHeld(t, "after the trial", Unavailable)
	s.expect(t, "after the trial", true, WentDown)
}

// TestBreakerLeavesTransfers checks that a transfer in progress ends well while the
// registry is down.
func TestBreakerLeavesTransfers(t *testing.T) {
	s := newSingle(t)
	content := strings.Repeat("a", 10_000)
	release := s.up.StallBlobs(4000)
	b, err := s.Blob(t.Context(), "a", digest.FromString(content), 0, -1, "")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s.up.Fail(registrytest.Failure{Status: http.StatusBadGateway})
	_ = s.pull(t, "a", "b", "c")
	s.expect(t, "during the transfer", true, WentDown)
	release()
	if got, err := io.ReadAll(b); err != nil || string(got) != content {
		t.Errorf("got %d bytes and error %v, want %d", len(got), err, len(content))
	}
}

// TestBreakerSeveralAddresses checks that requests fail at once if all addresses are
// down.
func TestBreakerSeveralAddresses(t *testing.T) {
	p := newPair(t)
	for _, r := range []*registrytest.Registry{p.a, p.b} {
		r.PutImage("b", "1", []byte("x"))
		r.Fail(registrytest.Failure{Status: http.StatusBadGateway})
	}
	for i := range 8 {
		_, err := p.Manifest(t.Context(), []string{"app", "b"}[i%2], "1")
		wantKind(t, err, Unavailable)
		p.pass(time.Minute)
	}
	if states := p.States(); !states[0].Down || !states[1].Down {
		t.Errorf("got states %+v, want both down", states)
	}
	wantKind(t, p.pull(t), Unavailable) // a trial
	p.a.Reset()
	p.b.Reset()
	wantKind(t, p.pull(t), Unavailable)
	if a, b := p.a.Counts(), p.b.Counts(); a.ManifestGet+b.ManifestGet != 0 {
		t.Errorf("got requests %+v and %+v, want none", a, b)
	}
}
