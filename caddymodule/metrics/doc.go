// Package metrics counts what the sites of this process do, for Prometheus, and
// reads their gauges when they are scraped.
//
// There is one collector per process, which each configuration registers with its own
// registry, so that counters continue across reloads. The running sites tell it which
// upstreams, directories and groups there are. Series of others are not shown, and
// forgotten. Each scrape shows all sites of the process.
//
// The registry of Caddy fails a whole scrape if two series are equal. Counters of
// equal names are therefore the same counter, and gauges of equal names are merged
// into one.
//
// Labels never have the names of accounts or images, nor digests: anyone who can pull
// could add series without end.
package metrics
