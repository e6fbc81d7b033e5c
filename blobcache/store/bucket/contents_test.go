package bucket

import (
	"fmt"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/go-digest"
)

// TestUses: the latest use of each content counts, in whatever order they are added.
func TestUses(t *testing.T) {
	var u uses
	digests := make([]digest.Digest, 40_000)
	for i := range digests {
		digests[i] = digest.FromString(fmt.Sprint(i))
	}
	for round := range 3 {
		for i, d := range digests {
			if err := u.add(d, uint64(1000+(i+round)%3)); err != nil {
				t.Fatal(err)
			}
		}
	}
	u.merge()
	for i, d := range digests {
		if got := u.hour(keyOf(d)); got != 1002 {
			t.Fatalf("content %d: got %d, want 1002", i, got)
		}
	}
	if got := u.hour(keyOf(digest.FromString("another"))); got != 0 {
		t.Errorf("unused content: got %d, want 0", got)
	}
	if len(u.sorted) != len(digests) || cap(u.sorted) > 4*len(digests) {
		t.Errorf("%d words of %d for %d contents", len(u.sorted), cap(u.sorted), len(digests))
	}
}

// TestAges: a cut has the least recently used bytes, and nothing young.
func TestAges(t *testing.T) {
	a := ages{10: 100, 20: 50, 30: 200, 40: 1}
	for excess, want := range map[int64]cut{
		0: {}, 1: {10, 1}, 99: {10, 99}, 100: {11, 0}, 101: {20, 1}, 149: {20, 49}, 150: {21, 0}, 300: {30, 150}, 9999: {31, 0},
	} {
		if got := a.oldest(excess, 40); got.before != want.before || got.edge != want.edge {
			t.Errorf("%d bytes: got %+v, want %+v", excess, got, want)
		}
	}
	c := cut{before: 20, edge: 30}
	for i, want := range []bool{true, true, false, true, false} {
		if got := c.takes(content{[]uint64{20, 20, 20, 19, 21}[i], 20}); got != want {
			t.Errorf("content %d: got %v, want %v", i, got, want)
		}
	}
}

// TestSweepingMemory: a sweep has as many bytes in memory for each content as the comment
// of the type says.
func TestSweepingMemory(t *testing.T) {
	const n = 1 << 17
	if size := unsafe.Sizeof(content{}); size != 16 {
		t.Errorf("a content has %d bytes, want 16", size)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var u uses
	var all contents
	for i := range uint64(n) {
		// Digests are as good as random; these are in the order of a listing.
		d := digest.NewDigestFromEncoded(digest.SHA256, fmt.Sprintf("%016x%048x", i<<40, i))
		if err := u.add(d, hourOf(time.Unix(int64(i)*3600, 0))); err != nil {
			t.Fatal(err)
		}
		all = append(all, content{keyOf(d), 1000})
	}
	u.merge()
	all.sort()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := int64(after.HeapAlloc) - int64(before.HeapAlloc); got > 48*n {
		t.Errorf("got %d bytes for %d contents, want at most 48 for each", got, n)
	}
	runtime.KeepAlive(u)
	runtime.KeepAlive(all)
}
