package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// BenchmarkSilentUpstream pulls cached tags that are not fresh by 8 clients, each of which
// pulls 100 times a second, while upstream accepts connections and sends nothing. A pull
// is a GET of the manifest by tag. To see several questions time out, run it with
// -benchtime 100000x, which takes two minutes.
func BenchmarkSilentUpstream(b *testing.B) {
	const tags, clients, pause = 42, 8, 10 * time.Millisecond
	up := registrytest.New(b)
	for i := range tags {
		up.PutImage("library/alpine", fmt.Sprint(i), []byte(fmt.Sprint(i)))
	}
	s := sitetest.Start(b, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "fresh_for 1ns", "patience 500ms"))
	token := sitetest.Bearer(s.Token("alice"))
	pull := func(i int) sitetest.Answer {
		return s.Get(sitetest.ManifestPath("acme", "alpine", fmt.Sprint(i%tags)), token).Expect(b, http.StatusOK, "")
	}
	for i := range tags {
		pull(i)
	}
	up.SetFault(neverAnswer)
	defer up.Heal()
	var next atomic.Int64
	var mu sync.Mutex
	var took []time.Duration
	b.ResetTimer()
	sitetest.Concurrently(clients, func(int) {
		for {
			i := int(next.Add(1))
			if i > b.N {
				return
			}
			begin := time.Now()
			pull(i)
			mu.Lock()
			took = append(took, time.Since(begin))
			mu.Unlock()
			time.Sleep(pause)
		}
	})
	b.StopTimer()
	slices.Sort(took)
	for name, share := range map[string]float64{"p50-ms": 0.5, "p99-ms": 0.99, "max-ms": 1} {
		at := took[min(len(took)-1, int(share*float64(len(took))))]
		b.ReportMetric(float64(at.Microseconds())/1000, name)
	}
	slow := 0
	for _, d := range took {
		if d > 50*time.Millisecond {
			slow++
		}
	}
	b.ReportMetric(float64(slow), "over-50ms")
	b.ReportMetric(float64(asked(up.Counts())), "questions")
}
