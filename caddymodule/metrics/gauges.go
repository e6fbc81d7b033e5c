package metrics

import (
	"cmp"
	"context"
	"math"
	"path"
	"strings"
	"sync"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
)

// gauges are the gauges of one scrape, by the name of the metric.
type gauges map[string]map[key]float64

// set sets a gauge. If it is set already, as by another site of the same name, merge
// decides.
func (g gauges) set(d Description, merge func(a, b float64) float64, value float64, values ...string) {
	var k key
	copy(k.values[:], values)
	if g[d.Name] == nil {
		g[d.Name] = make(map[key]float64)
	}
	if other, ok := g[d.Name][k]; ok {
		value = merge(other, value)
	}
	g[d.Name][k] = value
}

func sum(a, b float64) float64 { return a + b }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// readGauges reads the gauges of the sites.
func readGauges(sites []*Site) gauges {
	g := make(gauges)
	up := make([]map[string]bool, len(sites))
	var asking sync.WaitGroup
	for i, s := range sites {
		asking.Go(func() { up[i] = s.DirectoriesUp(context.Background()) })
	}
	storages, read := shortNames(sites), make(map[*blobcache.Cache]bool)
	for _, s := range sites {
		storage := storages[s.StorageName]
		if !read[s.Cache] { // sites with one storage share it
			read[s.Cache] = true
			g.readStorage(s.Cache, storage)
			g.readRemote(s.Remote, storage)
		}
		g.readQuotas(s, storage)
		g.readUpstreams(s)
		g.readPeers(s)
	}
	asking.Wait()
	for i, s := range sites {
		for name, up := range up[i] {
			g.set(directoryUp, math.Min, truth(up), name, s.label())
		}
	}
	return g
}

func (g gauges) readStorage(cache *blobcache.Cache, name string) {
	usage := cache.Usage(context.Background())
	g.set(fillsInFlight, sum, float64(usage.Fills), name)
	g.set(storedBytes, math.Max, float64(usage.Bytes), name)
	g.set(storedBlobs, math.Max, float64(usage.Blobs), name)
	if usage.Limit > 0 {
		g.set(storedLimit, math.Min, float64(usage.Limit), name)
	}
}

// readUpstreams reads the states of the upstreams. An upstream is up if one of its
// addresses is, with each login. One that is offline by configuration is neither up nor
// down, as it is not asked. Of several addresses that limit pulls, the one with
// the fewest left counts.
func (g gauges) readUpstreams(s *Site) {
	for _, u := range s.Upstreams {
		for login, mirrors := range u.Logins {
			login, up := cmp.Or(login, commonLogin), false
			for _, state := range mirrors.States() {
				up = up || !state.Down
				if state.Budget.Limit > 0 {
					g.set(rateLimitRemaining, math.Min, float64(state.Budget.Remaining), u.Name, login, s.label())
					g.set(rateLimitLimit, math.Min, float64(state.Budget.Limit), u.Name, login, s.label())
				}
			}
			if !mirrors.IsOffline() {
				g.set(upstreamUp, math.Min, truth(up), u.Name, s.label())
			}
		}
	}
}

// readPeers counts the nodes in each state.
func (g gauges) readPeers(s *Site) {
	state := s.Peers()
	if state == nil {
		return
	}
	counts := make(map[peers.Condition]int)
	for _, n := range state.Nodes {
		counts[n.State]++
	}
	for _, condition := range peers.Conditions {
		g.set(peerNodes, math.Max, float64(counts[condition]), string(condition), s.label())
	}
}

// readQuotas reads what groups with a quota have. Before the first measurement only
// their quotas are known.
func (g gauges) readQuotas(s *Site, storage string) {
	if len(s.Quotas) == 0 {
		return
	}
	totals := s.Totals()
	for group, quota := range s.Quotas {
		g.set(quotaLimit, math.Min, float64(quota), group, storage)
		if totals != nil {
			g.set(quotaBytes, math.Max, float64(totals[group].Bytes), group, storage)
		}
	}
}

// shortNames returns names for the storages of the sites: the last component of the
// path, or the whole name if several storages have that.
func shortNames(sites []*Site) map[string]string {
	names, holders := make(map[string]string), make(map[string]int)
	for _, s := range sites {
		if _, ok := names[s.StorageName]; !ok {
			_, location, _ := strings.Cut(s.StorageName, " ") // after the name of the module
			names[s.StorageName] = path.Base(location)
			holders[path.Base(location)]++
		}
	}
	for name, short := range names {
		if holders[short] > 1 {
			names[name] = name
		}
	}
	return names
}
