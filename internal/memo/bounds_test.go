package memo

import (
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestCacheBounds: neither values nor refusals exceed the size, and refusals do not
// displace values.
func TestCacheBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestCache(), &fakeService{value: "yes"}
		s.expect(t, c, "yes", nil, 1)
		s.err = fs.ErrNotExist
		for i := range 20 {
			s.expectKey(t, c, fmt.Sprint("none", i), "", s.err, 1)
		}
		if n := c.refusals.Len(); n != 10 {
			t.Errorf("%d refusals are remembered, want 10", n)
		}
		s.expect(t, c, "yes", nil, 0)
		_, last := c.Peek("none19")
		if _, first := c.Peek("none0"); !last || first {
			t.Errorf("got first %v and last %v, want only the last", first, last)
		}
		s.err = fs.ErrInvalid // is not remembered
		s.expectKey(t, c, "x", "", s.err, 1)
		s.expectKey(t, c, "x", "", s.err, 1)
	})
}

// TestCacheWeight: the values together are no heavier than permitted, whichever way
// they were replaced, forgotten or displaced.
func TestCacheWeight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config[string]{Size: 3, Fresh: time.Hour, Stale: time.Hour, Weigh: func(s string) int { return len(s) }, MaxWeight: 100})
		for i := range 50 {
			c.Set(fmt.Sprint(i%7), strings.Repeat("x", 10*(i%6)))
			sum := 0
			for _, a := range c.values.Values() {
				sum += len(a.Value)
			}
			if c.weight != sum || sum > 100 {
				t.Fatalf("got weight %d of %d bytes, want the same and at most 100", c.weight, sum)
			}
		}
		c.ForgetFunc(func(key string) bool { return key != "0" })
		c.Forget("0")
		if c.weight != 0 || c.values.Len() != 0 {
			t.Errorf("got weight %d of %d values, want none", c.weight, c.values.Len())
		}
		c.Set("heavy", strings.Repeat("x", 101))
		if _, ok := c.Peek("heavy"); ok || c.weight != 0 {
			t.Error("a value is remembered that is too heavy")
		}
	})
}

// TestCacheOwners: no owner has more values than permitted, its values displace only its
// own, and the counts are right whichever way the values were removed.
func TestCacheOwners(t *testing.T) {
	owner := func(key string) string { return key[:1] }
	c := New(Config[int]{Size: 12, Fresh: time.Hour, Owner: owner, MaxOwned: 4})
	check := func(after string, want map[string]int) {
		t.Helper()
		counted := make(map[string]int)
		for _, key := range c.values.Keys() {
			counted[owner(key)]++
		}
		if !maps.Equal(counted, want) || !maps.Equal(c.owned, counted) {
			t.Errorf("%s: got %v, counted as %v, want %v", after, counted, c.owned, want)
		}
	}
	for i := range 3 {
		c.Set(fmt.Sprint("a", i), i)
		c.Set(fmt.Sprint("a", i), i)
	}
	for i := range 20 {
		c.Set(fmt.Sprint("b", i), i)
	}
	check("too many of one owner", map[string]int{"a": 3, "b": 4})
	for _, key := range []string{"a0", "b16", "b19"} {
		if _, ok := c.Peek(key); !ok {
			t.Errorf("%s is not remembered, want it to be", key)
		}
	}
	c.Set("b20", 20) // b17 is the least recently used one
	if _, ok := c.Peek("b17"); ok {
		t.Error("b17 is remembered, want it displaced")
	}
	for _, owner := range []string{"c", "d", "e"} {
		for i := range 4 {
			c.Set(fmt.Sprint(owner, i), i)
		}
	}
	check("too many in all", map[string]int{"c": 4, "d": 4, "e": 4})
	c.Forget("c0")
	c.ForgetFunc(func(key string) bool { return owner(key) != "c" })
	check("forgotten", map[string]int{"c": 3})
}
