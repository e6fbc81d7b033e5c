package metrics

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
)

// collector collects the metrics of the process. It describes none of them, because
// those of sites with per_group have a label more than those of others; the registry
// then checks each scrape instead.
type collector struct {
	requests, responseBytes, denied, throttled, logins *counters
	peerRequests, peerBytes                            *counters
	firstByte                                          *series[histogram]
	upstreamRequests, upstreamBytes                    *counters
	upstreamSeconds                                    *series[histogram]
	fills, resumes, evicted, damaged                   *counters
	bucketRequests, bucketBytes                        *counters

	gauges map[string]*prometheus.Desc // by the names of the metrics

	since  time.Time
	totals [record.Ping + 1][record.Canceled + 1]atomic.Uint64 // requests by kind and result

	mu    sync.Mutex
	sites []*Site
}

// Buckets of the histograms, in seconds.
var (
	firstByteBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	upstreamBuckets  = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
)

// process is the collector of this process: like the registries of Caddy that it is
// registered with, it has no owner that could pass it on.
var process = newCollector()

func newCollector() *collector {
	c := &collector{
		requests: newCounters(requestsTotal), responseBytes: newCounters(responseBytes), denied: newCounters(deniedTotal),
		throttled: newCounters(throttledTotal), peerRequests: newCounters(peerRequests), peerBytes: newCounters(peerBytes), logins: newCounters(loginsTotal), firstByte: newHistograms(firstByteSeconds, firstByteBuckets),
		upstreamRequests: newCounters(upstreamRequests), upstreamBytes: newCounters(upstreamBytes),
		upstreamSeconds: newHistograms(upstreamSeconds, upstreamBuckets),
		fills:           newCounters(fillsTotal), resumes: newCounters(fillResumes), evicted: newCounters(evictedBytes), damaged: newCounters(damagedTotal),
		bucketRequests: newCounters(bucketRequests), bucketBytes: newCounters(bucketBytes),
		gauges: make(map[string]*prometheus.Desc), since: time.Now(),
	}
	for _, d := range descriptions {
		if d.Type == "gauge" {
			c.gauges[d.Name] = prometheus.NewDesc(d.Name, d.Help, d.Labels, nil)
		}
	}
	// An increase from 0 is only seen if the series is there before.
	c.throttled.with("")
	c.resumes.with("")
	c.damaged.with("")
	for _, result := range fillResults {
		c.fills.with("", result)
	}
	for _, reason := range evictReasons {
		c.evicted.with("", string(reason))
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	c.mu.Lock()
	sites := slices.Clone(c.sites)
	c.mu.Unlock()
	live := liveOf(sites)
	for _, s := range []*counters{
		c.requests, c.responseBytes, c.denied, c.throttled, c.logins, c.peerRequests, c.peerBytes, c.upstreamRequests, c.upstreamBytes, c.fills, c.resumes, c.evicted, c.damaged,
		c.bucketRequests, c.bucketBytes,
	} {
		s.show(live, to)
	}
	c.firstByte.show(live, to)
	c.upstreamSeconds.show(live, to)
	gauges := readGauges(sites)
	for _, d := range descriptions {
		for k, value := range gauges[d.Name] {
			to <- prometheus.MustNewConstMetric(c.gauges[d.Name], prometheus.GaugeValue, value, k.values[:len(d.Labels)]...)
		}
	}
}

// marker is registered beside the collector, which has no descriptions. It collects
// nothing; by its description, a registry detects a second registration.
type marker struct{}

var markerDesc = prometheus.NewDesc(Prefix+"registered", "Never shown.", nil, nil)

// Describe implements [prometheus.Collector].
func (marker) Describe(to chan<- *prometheus.Desc) { to <- markerDesc }

// Collect implements [prometheus.Collector].
func (marker) Collect(chan<- prometheus.Metric) {}

// Register registers the metrics of this process with the registry of a
// configuration. Doing so again has no effect.
func Register(registry prometheus.Registerer) error {
	err := registry.Register(marker{})
	if errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return nil
	}
	if err != nil {
		return err
	}
	return registry.Register(process)
}

// liveOf returns what the sites have.
func liveOf(sites []*Site) *live {
	l := &live{upstreams: make(map[string]bool), groups: make(map[string]bool), directories: make(map[[2]string]bool)}
	for _, s := range sites {
		for _, name := range s.Upstreams {
			l.upstreams[name.Name] = true
		}
		for _, name := range s.directories {
			l.directories[[2]string{name, s.label()}] = true
		}
		if !s.PerGroup {
			l.plain = true
			continue
		}
		l.groups[otherGroup] = true
		for name := range s.declared {
			l.groups[name] = true
		}
	}
	return l
}
