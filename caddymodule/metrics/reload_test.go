package metrics

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
)

// TestScrapesDuringReloads checks that scrapes succeed while sites come and go, with and
// without per_group and under one name, and that names that only clients know never become
// labels.
func TestScrapesDuringReloads(t *testing.T) {
	kept := openSite(t, "kept", 3, 0, Config{})
	registry := prometheus.NewPedanticRegistry()
	if err := Register(registry); err != nil {
		t.Fatal(err)
	}
	var busy sync.WaitGroup
	end := make(chan struct{})
	repeat := func(do func(i int)) {
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-end:
					return
				default:
					do(i)
				}
			}
		})
	}
	repeat(func(i int) {
		s := *kept
		s.PerGroup, s.Upstreams = i%2 == 0, []Upstream{{Name: "gone.example.com"}}
		s.Open()
		pulls(&s)
		s.Record(&record.Request{Kind: record.Blob, Result: record.Hit, Group: fmt.Sprint("hostile", i), Upstream: "gone.example.com", Source: record.Cache, Bytes: 1})
		s.Record(&record.Request{Kind: record.Manifest, Result: record.Denied, Group: fmt.Sprint("hostile", i), Image: fmt.Sprint("hostile", i), Denial: "unknown group"})
		s.Close()
	})
	repeat(func(int) { pulls(kept) })
	for range 100 {
		if _, err := registry.Gather(); err != nil {
			t.Error(err)
			break
		}
	}
	close(end)
	busy.Wait()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if text := f.String(); strings.Contains(text, "hostile") || strings.Contains(text, "gone.example.com") {
			t.Errorf("got %s, want only names of the site that is left", text)
		}
	}
}

// TestScrapeDoesNotHoldUpRequests checks that requests are counted while a scrape stands
// still, because its reader or a directory does.
func TestScrapeDoesNotHoldUpRequests(t *testing.T) {
	s := openSite(t, "slow", 3, 0, Config{})
	pulls(s)
	scraped := make(chan struct{})
	to := make(chan prometheus.Metric)
	go func() {
		defer close(scraped)
		process.Collect(to)
	}()
	<-to // Collect has begun, and blocks at the next metric
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		pulls(s)
	}()
	select {
	case <-counted:
	case <-time.After(10 * time.Second):
		t.Error("requests wait for the reader of the metrics")
	}
	go func() {
		for range to {
		}
	}()
	<-scraped
	close(to)
}
