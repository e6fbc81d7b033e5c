package bucket

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// A sweep knows content by the first 44 bits of its digest, together with the hour of
// its last use in one word. Two contents with the same bits have the later use of both,
// and count as stored if one of them is; so nothing is removed for that.
const (
	hourBits  = 20
	hourMask  = 1<<hourBits - 1
	keyDigits = (64 - hourBits) / 4
)

// maxReports bounds the reports of nodes that a sweep reads. They are those of 20,000 nodes,
// because older ones are merged.
const maxReports = 64 << 10

// maxKnown bounds the contents that a sweep knows, and the uses: 256 and 128 MiB. Lists
// that grow take up to twice that for a moment.
const maxKnown = 16 << 20

var errTooMany = errors.New("the bucket has more content, or more reports of its use, than a sweep can hold in memory; use several prefixes or buckets")

// keyOf returns the word of content without an hour.
func keyOf(d digest.Digest) uint64 {
	n, err := strconv.ParseUint(d.Encoded()[:keyDigits], 16, 64)
	if err != nil {
		panic(err) // d is not valid
	}
	return n << hourBits
}

// hourOf returns the hour of a time since 1970, as far as 2089.
func hourOf(t time.Time) uint64 {
	return uint64(min(max(t.Unix()/3600, 0), hourMask))
}

// uses are the hours in which content was last used, in 8 bytes for each content.
type uses struct {
	sorted, added []uint64
}

// add records a use.
func (u *uses) add(d digest.Digest, hour uint64) error { return u.addWord(keyOf(d) | hour) }

func (u *uses) addWord(word uint64) error {
	if u.added = append(u.added, word); len(u.added) >= max(len(u.sorted), 1<<16) {
		u.merge()
	}
	if len(u.sorted) > maxKnown {
		return errTooMany
	}
	return nil
}

// merge sorts what was added. Only the latest use of each content is left.
func (u *uses) merge() {
	slices.Sort(u.added)
	all := append(u.sorted, u.added...)
	slices.Sort(all)
	n := 0
	for i, word := range all {
		if i+1 == len(all) || all[i+1]&^hourMask != word&^hourMask {
			all[n] = word
			n++
		}
	}
	u.sorted, u.added = all[:n], nil
}

// hour returns the hour in which content with a key was last used, or 0. Merge must
// have been called since the last add.
func (u *uses) hour(key uint64) uint64 {
	i, _ := slices.BinarySearch(u.sorted, key)
	if i < len(u.sorted) && u.sorted[i]&^hourMask == key {
		return u.sorted[i] & hourMask
	}
	return 0
}

// content is content in the bucket, in 16 bytes.
type content struct {
	word uint64 // its key, and the hour in which it was uploaded or last used
	size int64
}

func (c content) hour() uint64 { return c.word & hourMask }

// contents are the contents in the bucket, in the order of their keys.
type contents []content

func (c contents) sort() {
	byWord := func(a, b content) int { return cmp.Compare(a.word, b.word) }
	if !slices.IsSortedFunc(c, byWord) { // it is unless there are several algorithms
		slices.SortFunc(c, byWord)
	}
}

// find returns the position of content, and whether it is in the bucket.
func (c contents) find(key uint64) (i int, found bool) {
	i, _ = slices.BinarySearchFunc(c, key, func(c content, key uint64) int { return cmp.Compare(c.word, key) })
	return i, i < len(c) && c[i].word&^hourMask == key
}

// bits is a set of positions.
type bits []uint64

func newBits(n int) bits { return make(bits, (n+63)/64) }

func (b bits) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b bits) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bits) clear(i int)    { b[i/64] &^= 1 << (i % 64) }

// ages are the sizes of contents by the hours of their last use. There are as many as
// hours between the first and the last use.
type ages map[uint64]int64

// cut is the least recently used part of some contents: those last used before an hour,
// and edge bytes of those last used in it.
type cut struct {
	before uint64
	edge   int64
}

// oldest returns the cut of at least excess bytes, none of them used in the hour of
// young or later.
func (a ages) oldest(excess int64, young uint64) cut {
	c := cut{}
	for _, hour := range slices.Sorted(maps.Keys(a)) {
		if excess <= 0 || hour >= young {
			break
		}
		c = cut{before: hour, edge: excess}
		if excess -= a[hour]; excess >= 0 {
			c = cut{before: hour + 1}
		}
	}
	return c
}

// before returns the cut of all that was last used before an hour.
func before(hour uint64) cut { return cut{before: hour} }

// takes reports whether content is in the cut. It must be called once for each content.
func (c *cut) takes(k content) bool {
	if k.hour() == c.before && c.edge > 0 {
		c.edge -= max(k.size, 1)
		return true
	}
	return k.hour() < c.before
}

// quotas are limits of the size of what owners have links to.
type quotas map[string]int64

// lowest sets the limits that are lower than the known ones.
func (q quotas) lowest(limits map[string]int64) {
	for owner, limit := range limits {
		if limit > 0 {
			q[owner] = min(cmp.Or(q[owner], math.MaxInt64), limit)
		}
	}
}
