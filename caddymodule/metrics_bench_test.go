//go:build unix

package caddymodule

import (
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// cpuTime returns the processor time that the process has used.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkManifestMetrics compares the processor time of requests for a cached manifest
// over HTTP, client included, with and without the metrics. Both take turns, so that
// other work of the machine affects them alike.
func BenchmarkManifestMetrics(b *testing.B) {
	up := registrytest.New(b)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 300))
	s := sitetest.Start(b, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	token, path := s.Token("alice"), sitetest.ManifestPath("acme", "alpine", "3.20")
	h := runningHandler(b)
	all := h.consumers
	ask := func(n int) {
		for range n {
			response := s.Open(path, sitetest.Bearer(token))
			if response.StatusCode != http.StatusOK {
				b.Fatalf("got status %d, want 200", response.StatusCode)
			}
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
		}
	}
	ask(1000)
	const round = 200
	var used [2]time.Duration
	rounds := 0
	for b.Loop() {
		for turn := range used {
			i := turn ^ rounds&1
			time.Sleep(time.Millisecond) // the last request may not have been recorded yet
			if h.consumers = nil; i == 0 {
				h.consumers = []record.Consumer{h.metered.Record}
			}
			before := cpuTime(b)
			ask(round)
			used[i] += cpuTime(b) - before
		}
		rounds++
	}
	h.consumers = all
	requests := float64(rounds * round)
	b.ReportMetric(float64(used[0])/requests, "on-ns/request")
	b.ReportMetric(float64(used[1])/requests, "off-ns/request")
	b.ReportMetric(100*(float64(used[0])/float64(used[1])-1), "%-more")
	b.ReportMetric(0, "ns/op")
}
