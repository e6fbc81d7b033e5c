package blobcache

// SetSpans makes ranges so small that tests need no large content.
func (c *Cache) SetSpans(first, least, most int64) { c.spans = spans{first, least, most} }
