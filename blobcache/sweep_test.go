package blobcache

import "testing"

// TestSweepAfterAnotherProcess checks that a sweep notices content that another process has
// removed from the same directory, and removes nothing if the rest is within the limit.
func TestSweepAfterAnotherProcess(t *testing.T) {
	const size = 1000
	dir := t.TempDir()
	one, store := kept(t, dir, Limits{MaxSize: 100 * size})
	for n := range 94 {
		pull(t, one, n, size)
	}
	sweep(t, one)
	for n := range 20 { // as another process does
		_, d := content(n, size)
		if err := store.Remove(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	for n := 94; n < 98; n++ {
		pull(t, one, n, size)
	}
	sweep(t, one)
	for n := 20; n < 98; n++ {
		if !has(t, one, n, size) {
			t.Fatalf("the sweep removed content %d, want it stored: the limit is not reached", n)
		}
	}
}

// TestPutBytesCountsOnce checks that content that is stored several times is counted once.
func TestPutBytesCountsOnce(t *testing.T) {
	c, _ := kept(t, t.TempDir(), Limits{MaxSize: 1_000_000})
	b, d := content(1, 100_000)
	for range 3 {
		if err := c.PutBytes(t.Context(), d, b); err != nil {
			t.Fatal(err)
		}
	}
	if c.evictor.stored != 100_000 {
		t.Errorf("got %d stored bytes, want 100000", c.evictor.stored)
	}
}
