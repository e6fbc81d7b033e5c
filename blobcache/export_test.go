package blobcache

// SetSpans makes ranges so small that tests need no large content.
func (c *Cache) SetSpans(first, least, most int64) { c.spans = spans{first, least, most} }

// Counted is what a cache believes: how many bytes are stored and
// reserved, and how many contents are being read.
func (c *Cache) Counted() (stored, reserved int64, reading int) {
	c.keeper.mu.Lock()
	defer c.keeper.mu.Unlock()
	return c.keeper.stored, c.keeper.reserved, len(c.keeper.reading)
}

// LargeBuffers is how many of them are in use.
func LargeBuffers() int { return int(largeUsed.Load()) }
