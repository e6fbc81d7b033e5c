package buffer

import "testing"

// TestLargeBuffersAreFew checks that Take returns small buffers when MaxLarge large ones are in
// use, and that Fit changes the size.
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
		t.Errorf("got %d large buffers, want %d", large, MaxLarge)
	}
	for _, buf := range held {
		buf.Release()
	}
	buf := Take(false).Fit(Small)
	if !buf.large() {
		t.Error("Fit after a read that fills a small buffer: got a small one, want a large one")
	}
	if buf = buf.Fit(Small - 1); buf.large() {
		t.Error("Fit after a read that does not fill a small buffer: got a large one, want a small one")
	}
	buf.Release()
}
