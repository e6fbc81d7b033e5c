package blobcache

import "testing"

// TestLargeBuffersAreFew: when they are all in use small ones do.
func TestLargeBuffersAreFew(t *testing.T) {
	held := make([]*buffer, 0, 2*largeBuffers)
	large := 0
	for range cap(held) {
		buf := takeBuffer(true)
		if held = append(held, buf); buf.large() {
			large++
		}
	}
	if large != largeBuffers {
		t.Errorf("%d large buffers", large)
	}
	for _, buf := range held {
		buf.release()
	}
	buf := takeBuffer(false).fit(smallBuffer)
	if !buf.large() {
		t.Error("what fills a small buffer gets no large one")
	}
	if buf = buf.fit(smallBuffer - 1); buf.large() {
		t.Error("what does not fill a small buffer keeps a large one")
	}
	buf.release()
}
