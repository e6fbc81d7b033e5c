package metrics

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// groupLabel is the label of metrics on sites with per_group.
const groupLabel = "group"

// key has the values of a series' labels: those of the description, in its order, and
// the group on sites with per_group.
type key struct {
	values [3]string
	group  string
}

// series are the series of a counter or a histogram, with values of type T.
type series[T any] struct {
	Description
	plain, grouped *prometheus.Desc
	create         func(*series[T], key) T
	collect        func(*series[T], key, T, chan<- prometheus.Metric)

	mu  sync.RWMutex
	all map[key]T
}

type (
	counter   = *atomic.Uint64
	counters  = series[counter]
	histogram = prometheus.Histogram
)

func newSeries[T any](d Description) *series[T] {
	return &series[T]{
		Description: d, all: make(map[key]T),
		plain:   prometheus.NewDesc(d.Name, d.Help, d.Labels, nil),
		grouped: prometheus.NewDesc(d.Name, d.Help, append(slices.Clone(d.Labels), groupLabel), nil),
	}
}

func newCounters(d Description) *counters {
	s := newSeries[counter](d)
	s.create = func(*counters, key) counter { return new(atomic.Uint64) }
	s.collect = func(s *counters, k key, c counter, to chan<- prometheus.Metric) {
		desc, values := s.plain, k.values[:len(s.Labels)]
		if k.group != "" {
			desc, values = s.grouped, append(slices.Clone(values), k.group)
		}
		to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(c.Load()), values...)
	}
	return s
}

func newHistograms(d Description, buckets []float64) *series[histogram] {
	s := newSeries[histogram](d)
	s.create = func(s *series[histogram], k key) histogram {
		labels := make(prometheus.Labels)
		for i, name := range s.Labels {
			labels[name] = k.values[i]
		}
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: s.Name, Help: s.Help, ConstLabels: labels, Buckets: buckets})
	}
	s.collect = func(_ *series[histogram], _ key, h histogram, to chan<- prometheus.Metric) { to <- h }
	return s
}

// with returns the value of the series with the given labels, and creates it if it is
// new. An empty group means none.
func (s *series[T]) with(group string, values ...string) T {
	k := key{group: group}
	copy(k.values[:], values)
	s.mu.RLock()
	value, ok := s.all[k]
	s.mu.RUnlock()
	if ok {
		return value
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if value, ok = s.all[k]; !ok {
		value = s.create(s, k)
		s.all[k] = value
	}
	return value
}

// show collects the series that are live and forgets the others. Requests do not wait
// for the reader of the metrics.
func (s *series[T]) show(live *live, to chan<- prometheus.Metric) {
	s.mu.Lock()
	maps.DeleteFunc(s.all, func(k key, _ T) bool { return !live.has(s.Description, k) })
	all := maps.Clone(s.all)
	s.mu.Unlock()
	for k, value := range all {
		s.collect(s, k, value, to)
	}
}

// live says which names the running sites have.
type live struct {
	upstreams, groups map[string]bool
	directories       map[[2]string]bool // and the names of their sites
	plain             bool               // a site has no per_group
}

func (l *live) has(d Description, k key) bool {
	if k.group != "" && !l.groups[k.group] || k.group == "" && d.PerGroup && !l.plain {
		return false
	}
	if i := slices.Index(d.Labels, "upstream"); i >= 0 && !l.upstreams[k.values[i]] {
		return false
	}
	i := slices.Index(d.Labels, "directory")
	return i < 0 || l.directories[[2]string{k.values[i], k.values[slices.Index(d.Labels, "site")]}]
}
