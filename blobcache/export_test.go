package blobcache

import "github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"

// SetSpans makes ranges so small that tests need no large content.
func (c *Cache) SetSpans(first, least, most int64) {
	c.fills = c.newFills(fill.Spans{First: first, Least: least, Most: most})
}

// Counted is what a cache believes: how many bytes are stored and
// reserved, and how many contents are being read.
func (c *Cache) Counted() (stored, reserved int64, reading int) {
	c.evictor.mu.Lock()
	defer c.evictor.mu.Unlock()
	return c.evictor.stored, c.evictor.reserved, len(c.evictor.reading)
}
