package pullthrough

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// passed returns a context of a request that has passed another proxy.
func passed(ctx context.Context, proxy byte) context.Context {
	return upstream.WithVia(ctx, http.Header{"Via": {"1.1 dependency-proxy-" + strings.Repeat(string('a'+proxy), 26)}})
}

// roundTripper implements [http.RoundTripper] by a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// newFixtureOf returns a fixture whose upstream is a function, for synctest.
func newFixtureOf(t *testing.T, up roundTripper) *fixture {
	t.Helper()
	return newFixtureAt(t, &url.URL{Scheme: "https", Host: "hub.example"}, up)
}

// The proxies in front of a slow upstream share a download, although each asks with
// its own Via, and one of them asks whether upstream leads back.
func TestRepositoryBlobForSeveralProxies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := random(1, 50_000)
		var downloads atomic.Int32
		asked := make(chan struct{})
		var once sync.Once
		f := newFixtureOf(t, func(r *http.Request) (*http.Response, error) {
			resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: int64(len(layer)), Request: r}
			if r.Method == http.MethodHead {
				once.Do(func() { close(asked) })
				return resp, nil
			}
			downloads.Add(1)
			<-asked
			resp.Body = io.NopCloser(bytes.NewReader(layer))
			return resp, nil
		})
		repository := f.repository("red", "team/app")
		var all sync.WaitGroup
		for proxy := range byte(3) {
			all.Go(func() {
				reader, _, err := repository.Blob(passed(t.Context(), proxy), digest.FromBytes(layer))
				if err == nil {
					err = expectContent(reader, layer)
				}
				if err != nil {
					t.Errorf("proxy %d: %v", proxy, err)
				}
			})
		}
		all.Wait()
		if got := downloads.Load(); got != 1 {
			t.Errorf("got %d downloads for several proxies, want 1", got)
		}
	})
}

func expectContent(reader *blobcache.Reader, want []byte) error {
	defer reader.Close()
	var got bytes.Buffer
	if _, err := reader.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
		return fmt.Errorf("got %d bytes, error %w; want %d bytes", got.Len(), err, len(want))
	}
	return nil
}

// A request that another proxy has sent ends when upstream leads back to this proxy,
// and not only at a time limit, also if it waits for the request of another client.
func TestRepositoryLoopOfAnotherRequest(t *testing.T) {
	d := digest.FromString("x")
	for what, ask := range map[string]func(context.Context, *Repository) error{
		"blob":     func(ctx context.Context, r *Repository) error { _, _, err := r.Blob(ctx, d); return err },
		"size":     func(ctx context.Context, r *Repository) error { _, _, err := r.StatBlob(ctx, d); return err },
		"manifest": func(ctx context.Context, r *Repository) error { _, err := r.ManifestByDigest(ctx, d, true); return err },
		"tag": func(ctx context.Context, r *Repository) error {
			_, err := r.ManifestByTag(ctx, "latest", false)
			return err
		},
		"tags": func(ctx context.Context, r *Repository) error { _, _, err := r.Tags(ctx, nil); return err },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var held atomic.Int32
				release := make(chan struct{})
				f := newFixtureOf(t, func(r *http.Request) (*http.Response, error) {
					if strings.Contains(r.Header.Get("Via"), "aaaa") {
						return &http.Response{StatusCode: http.StatusBadGateway, Header: http.Header{"Cache-Status": {upstream.LoopStatus}}, Request: r}, nil
					}
					held.Add(1)
					<-release
					return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Request: r}, nil
				})
				repository := f.repository("red", "team/app")
				var first sync.WaitGroup
				first.Go(func() { _ = ask(context.WithoutCancel(t.Context()), repository) })
				if synctest.Wait(); held.Load() != 1 {
					t.Errorf("got %d requests that wait for upstream, want 1", held.Load())
				}
				begin := time.Now()
				expectKind(t, ask(passed(t.Context(), 0), repository), upstream.Loop)
				if took := time.Since(begin); took != loopPatience {
					t.Errorf("the request ended after %v, want %v", took, loopPatience)
				}
				close(release)
				first.Wait()
			})
		})
	}
}

// However many proxies a client claims that its request has passed, and however many
// clients do, a slow upstream is asked a bounded number of times, and to spend no pull.
func TestRepositoryLoopQuestionsAreBounded(t *testing.T) {
	for _, noHead := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f, up := newClocked(t)
			up.set(func(u *clocked) { u.delay, u.noHead = 5*time.Second, noHead })
			var all sync.WaitGroup
			for client := range 1000 {
				all.Go(func() {
					via := make([]string, 1+client%40)
					for i := range via {
						via[i] = fmt.Sprintf("1.1 dependency-proxy-%s", strings.Repeat(string(rune('a'+(client+i)%26)), 26))
					}
					ctx := upstream.WithVia(t.Context(), http.Header{"Via": via})
					if _, err := f.repository("red", "team/app").ManifestByTag(ctx, "cold", false); err != nil {
						t.Errorf("got error %v, want the manifest", err)
					}
				})
			}
			all.Wait()
			up.mu.Lock()
			defer up.mu.Unlock()
			if up.asked > 2+16 || up.pulls > 1 {
				t.Errorf("got %d questions with %d pulls, want one of the clients, and at most 16 others by HEAD", up.asked, up.pulls)
			}
		})
	}
}
