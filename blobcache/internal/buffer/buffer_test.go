package buffer

import "testing"

// TestLargeBuffersAreFew: when they are all in use small ones do.
func TestLargeBuffersAreFew(t *testing.T) {
	held := make([]*Buffer, 0, 2*MaxLarge)
	large := 0
	for range cap(held) {
		buf := Take(true)
		if held = append(held, buf); buf.large() {
			large++
		}
	}
	if large != MaxLarge {
		t.Errorf("%d large buffers", large)
	}
	for _, buf := range held {
		buf.Release()
	}
	buf := Take(false).Fit(Small)
	if !buf.large() {
		t.Error("what fills a small buffer gets no large one")
	}
	if buf = buf.Fit(Small - 1); buf.large() {
		t.Error("what does not fill a small buffer keeps a large one")
	}
	buf.Release()
}
