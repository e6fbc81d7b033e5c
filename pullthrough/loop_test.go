package pullthrough

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
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

// The proxies in front of a slow upstream share a download, although each asks with
// its own Via, and one of them asks whether upstream leads back.
func TestRepositoryBlobForSeveralProxies(t *testing.T) {
	f := newFixture(t)
	layer := random(1, 50_000)
	d := f.up.PutBlob("team/app", layer)
	var downloads atomic.Int32
	asked := make(chan struct{})
	var once sync.Once
	f.up.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		switch {
		case !strings.Contains(r.URL.Path, "/blobs/"):
		case r.Method == http.MethodHead:
			once.Do(func() { close(asked) })
		default:
			downloads.Add(1)
			<-asked
		}
		return false
	})
	repository := f.repository("red", "team/app")
	var all sync.WaitGroup
	for proxy := range byte(3) {
		all.Go(func() {
			reader, _, err := repository.Blob(passed(t.Context(), proxy), d)
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
	f := newFixture(t)
	var held atomic.Int32
	release := make(chan struct{})
	f.up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.Header.Get("Via"), "aaaa") {
			w.Header().Set("Cache-Status", upstream.LoopStatus)
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		held.Add(1)
		<-release
		return false
	})
	var first sync.WaitGroup
	defer first.Wait()
	defer close(release)
	repository, d := f.repository("red", "team/app"), digest.FromString("x")
	for what, ask := range map[string]func(context.Context) error{
		"blob":     func(ctx context.Context) error { _, _, err := repository.Blob(ctx, d); return err },
		"size":     func(ctx context.Context) error { _, _, err := repository.StatBlob(ctx, d); return err },
		"manifest": func(ctx context.Context) error { _, err := repository.ManifestByDigest(ctx, d, true); return err },
		"tag":      func(ctx context.Context) error { _, err := repository.ManifestByTag(ctx, "latest", false); return err },
		"tags":     func(ctx context.Context) error { _, _, err := repository.Tags(ctx, nil); return err },
	} {
		t.Run(what, func(t *testing.T) {
			before := held.Load()
			first.Go(func() { _ = ask(context.WithoutCancel(t.Context())) })
			eventually(t, "upstream is asked", func() bool { return held.Load() > before })
			expectKind(t, ask(passed(t.Context(), 0)), upstream.Loop)
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
