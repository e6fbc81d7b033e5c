package blobcache

import "github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"

// SetSpans sets the sizes of ranges, so that tests can fetch in ranges without large content.
func (c *Cache) SetSpans(first, least, most int64) {
	c.fills = c.newFills(fill.Spans{First: first, Least: least, Most: most})
}

// Counted returns the cache's own counts: of the bytes stored and reserved, and of the
// contents that are being read.
func (c *Cache) Counted() (stored, reserved int64, reading int) {
	c.evictor.mu.Lock()
	defer c.evictor.mu.Unlock()
	return c.evictor.stored, c.evictor.reserved, len(c.evictor.reading)
}
