package metrics

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
)

// manyBlobs is a store that has a number of blobs of 1000 bytes, for a walk.
type manyBlobs struct {
	store.Blobs
	n int
}

func (m manyBlobs) Walk(_ context.Context, visit func(store.Entry) error) error {
	for i := range m.n {
		if err := visit(store.Entry{Digest: digest.FromString(fmt.Sprint(i)), Size: 1000, Used: time.Now()}); err != nil {
			return err
		}
	}
	return nil
}

func (manyBlobs) Check(context.Context, digest.Digest, func(context.Context, int) error) error {
	return nil
}

func (manyBlobs) Free(context.Context) (free, total int64, err error) { return 1 << 40, 1 << 41, nil }

// openSite opens a site with groups and blobs, which are counted, until the test ends.
func openSite(t testing.TB, name string, groups, blobs int, config Config) *Site {
	t.Helper()
	cache := blobcache.New(manyBlobs{n: blobs}, blobcache.Limits{MaxSize: 1 << 40}, blobcache.Hooks{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		cache.Keep(ctx)
	}()
	for cache.Usage(ctx).Blobs != blobs {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	s := &Site{
		Config: config, Name: name, Cache: cache, StorageName: "filesystem /var/cache/" + name,
		Upstreams: []Upstream{{Name: "docker.io"}}, Directories: []string{"static"},
		DirectoriesUp: func(context.Context) map[string]bool { return map[string]bool{"static": true} },
		Quotas:        make(map[string]int64), Totals: func() map[string]blobcache.Total { return nil },
		Peers: func() *peers.State { return nil },
	}
	totals := make(map[string]blobcache.Total)
	for i := range groups {
		path := fmt.Sprint("group", i)
		s.Groups = append(s.Groups, path)
		s.Quotas[path] = 1 << 30
		totals[path] = blobcache.Total{Bytes: 1 << 20}
	}
	s.Totals = func() map[string]blobcache.Total { return totals }
	s.Open()
	t.Cleanup(s.Close)
	return s
}

// gather returns the number of series by metric, without those of denied requests, which
// remain in the process and which pulls does not record.
func gather(t *testing.T, registry *prometheus.Registry) map[string]int {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := make(map[string]int)
	for _, f := range families {
		for _, series := range f.GetMetric() {
			if !strings.Contains(series.String(), `"denied"`) {
				n[f.GetName()]++
			}
		}
	}
	return n
}

// pulls records a pull of each group of a site.
func pulls(s *Site) {
	for _, group := range s.Groups {
		for _, result := range []record.Result{record.Hit, record.Miss} {
			for _, kind := range []record.Kind{record.Manifest, record.Blob} {
				s.Record(&record.Request{Kind: kind, Result: result, Group: group, Upstream: "docker.io", Source: record.Cache, Bytes: 1000, FirstByte: time.Millisecond})
			}
		}
	}
}

// TestRegister checks that the metrics can be registered with several registries, and
// with one several times, and that sites of equal names do not clash.
func TestRegister(t *testing.T) {
	a := openSite(t, "same", 3, 10, Config{PerGroup: true})
	b := openSite(t, "same", 2, 10, Config{})
	pulls(a)
	pulls(b)
	for range 2 {
		registry := prometheus.NewPedanticRegistry()
		for range 3 {
			if err := Register(registry); err != nil {
				t.Fatal(err)
			}
		}
		n := gather(t, registry)
		if got := n[requestsTotal.Name]; got != 3*4+4 {
			t.Errorf("got %d series of requests, want 4 of each of 3 groups, and 4 without a group", got)
		}
		if got := n[storedBlobs.Name]; got != 1 {
			t.Errorf("got %d series of stored blobs, want 1", got)
		}
	}
}

// TestTotal checks that the totals count what the sites record.
func TestTotal(t *testing.T) {
	s := openSite(t, "total", 5, 0, Config{})
	hits, served := Total().Hits()
	pulls(s)
	if moreHits, moreServed := Total().Hits(); moreHits-hits != 10 || moreServed-served != 20 {
		t.Errorf("got %d hits of %d requests, want 10 of 20", moreHits-hits, moreServed-served)
	}
	if n := Total().Requests[record.Blob][record.Hit]; n < 5 {
		t.Errorf("got %d hits of blobs, want at least 5", n)
	}
}

// TestDescriptions checks that the descriptions are complete, and in the style of
// Prometheus.
func TestDescriptions(t *testing.T) {
	seen := make(map[string]bool)
	for _, d := range All() {
		total := len(d.Name) > 6 && d.Name[len(d.Name)-6:] == "_total"
		if seen[d.Name] || d.Help == "" || !slices.Contains([]string{"counter", "gauge", "histogram"}, d.Type) || total != (d.Type == "counter") || len(d.Labels) > 3 {
			t.Errorf("got the description %+v, want a new name, a text, a type, _total for counters alone, and at most 3 labels", d)
		}
		seen[d.Name] = true
	}
}

// BenchmarkScrape measures a scrape of a site with 1,000 groups with quotas and a
// million blobs, with and without per_group.
func BenchmarkScrape(b *testing.B) {
	for _, perGroup := range []bool{false, true} {
		b.Run(fmt.Sprintf("per_group=%v", perGroup), func(b *testing.B) {
			pulls(openSite(b, "bench", 1000, 1_000_000, Config{PerGroup: perGroup}))
			registry := prometheus.NewPedanticRegistry()
			if err := Register(registry); err != nil {
				b.Fatal(err)
			}
			handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: true})
			var size int64
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
				size, _ = io.Copy(io.Discard, w.Body)
				if w.Code != http.StatusOK {
					b.Fatalf("got status %d", w.Code)
				}
			}
			b.ReportMetric(float64(size), "bytes")
		})
	}
}

// BenchmarkRecord measures what a request costs.
func BenchmarkRecord(b *testing.B) {
	s := openSite(b, "bench", 1000, 0, Config{PerGroup: true})
	r := &record.Request{Kind: record.Manifest, Result: record.Hit, Group: "group7", Upstream: "docker.io", Source: record.Cache, Bytes: 1000, FirstByte: time.Millisecond}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Record(r)
		}
	})
}
