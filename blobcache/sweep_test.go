package blobcache

import "testing"

// TestSweepAfterAnotherProcess: what another process on the same directory has removed is
// not removed for a second time, of what is left.
func TestSweepAfterAnotherProcess(t *testing.T) {
	const size = 1000
	dir := t.TempDir()
	one, store := kept(t, dir, Limits{MaxSize: 100 * size})
	for n := range 94 {
		pull(t, one, n, size)
	}
	sweep(t, one)
	for n := range 20 { // by another one
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
			t.Fatalf("content %d has gone although there was room for it", n)
		}
	}
}

// TestPutBytesCountsOnce: content that is stored again counts once.
func TestPutBytesCountsOnce(t *testing.T) {
	c, _ := kept(t, t.TempDir(), Limits{MaxSize: 1_000_000})
	b, d := content(1, 100_000)
	for range 3 {
		if err := c.PutBytes(t.Context(), d, b); err != nil {
			t.Fatal(err)
		}
	}
	if c.evictor.stored != 100_000 {
		t.Errorf("%d bytes are counted", c.evictor.stored)
	}
}
