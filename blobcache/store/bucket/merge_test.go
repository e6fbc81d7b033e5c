package bucket

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// merged returns the names of the objects with merged reports, and the number of the others.
func merged(server *s3test.Server) (names []string, reports int) {
	for _, key := range server.Keys() {
		if strings.HasPrefix(key, "cache/"+mergedFolder) {
			names = append(names, key)
		} else if strings.HasPrefix(key, "cache/"+usedFolder) {
			reports++
		}
	}
	return names, reports
}

// TestSweepMerges checks that old reports are merged into one object, and that the uses in it
// keep their times in later sweeps.
func TestSweepMerges(t *testing.T) {
	server := s3test.New(t)
	digests := filled(t, server, 20, 20, 20, 20)
	for i, ago := range []int{5, 9, 1} {
		putAt(server, fmt.Sprintf("cache/used/2001-01-0%d/other", i+1), digests[i].String()+"\n"+digest.FromString("gone").String()+"\n", ago)
	}
	sweep(t, limited(t, server, 0, 10*day))
	names, reports := merged(server)
	if got := left(server, digests); len(names) != 1 || reports != 1 || got != "abc" {
		t.Fatalf("%d merged objects, %d reports, and left %q; want 1, 1 and abc", len(names), reports, got)
	}
	if content, _ := server.Get(names[0]); len(content) != 3*8 {
		t.Errorf("the merged object has %d bytes, want a word for each of 3 contents", len(content))
	}
	for _, step := range []struct {
		later time.Duration
		want  string
	}{{2 * day, "ac"}, {4 * day, "c"}, {4 * day, ""}} {
		server.Advance(step.later)
		gets := server.Requests(http.MethodGet)
		sweep(t, limited(t, server, 0, 10*day))
		again, _ := merged(server)
		if got := left(server, digests); got != step.want || len(again) != 1 || server.Requests(http.MethodGet)-gets > 3 {
			t.Errorf("%v later: left %q, %v and %d reads, want %q, one merged object and at most 3, one of them for uploads", step.later, got, again, server.Requests(http.MethodGet)-gets, step.want)
		}
	}
}

// TestSweepMergesTwice checks that two sweeps at once lose no use, whichever merges first.
func TestSweepMergesTwice(t *testing.T) {
	server := s3test.New(t)
	const uses = 12
	digests := filled(t, server, slices.Repeat([]int{20}, uses)...)
	for i, d := range digests {
		putAt(server, fmt.Sprintf("cache/used/2001-01-%02d/other", i+1), d.String()+"\n", 5)
	}
	for range 5 {
		var both sync.WaitGroup
		for range 2 {
			n := limited(t, server, 0, 10*day)
			both.Go(func() {
				if _, err := n.sweep(t.Context()); err != nil && !errors.Is(err, errNotDue) {
					t.Errorf("sweep: %v", err)
				}
			})
		}
		both.Wait()
		server.Lose("cache/swept")
	}
	// The next sweep merges what these have left.
	if _, err := limited(t, server, 0, 10*day).sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	names, _ := merged(server)
	old := slices.ContainsFunc(server.Keys(), func(key string) bool { return strings.HasPrefix(key, "cache/used/2001") })
	if got := left(server, digests); len(got) != uses || len(names) != 1 || old {
		t.Errorf("left %q, with %d merged objects, old reports: %v; want %d contents, one object and no old reports", got, len(names), old, uses)
	}
}

// TestSweepMissesReport checks that a sweep that cannot find a report which it has listed ends
// if another sweep has merged it, and goes on if the bucket has lost it.
func TestSweepMissesReport(t *testing.T) {
	for name, elsewhere := range map[string]bool{"merged": true, "lost": false} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			digests := filled(t, server, 20, 1)
			const report = "cache/used/2001-01-01/other"
			putAt(server, report, digests[0].String()+"\n", 5)
			server.OnAnswer(func(_, uri string) {
				if strings.Contains(uri, "prefix=cache%2Fused%2F&") || strings.HasSuffix(uri, "prefix=cache%2Fused%2F") {
					server.Lose(report)
					if elsewhere {
						server.Put("cache/"+mergedFolder+"other", nil)
					}
				}
			})
			_, err := limited(t, server, 0, 10*day).sweep(t.Context())
			if got := left(server, digests); errors.Is(err, errMerged) != elsewhere || (got == "ab") != elsewhere {
				t.Errorf("got %v and left %q, want that the sweep ends and leaves ab: %v", err, got, elsewhere)
			}
		})
	}
}

// TestSweepRefs checks that a ref is removed if no node has confirmed it for as long as
// content is kept and its manifest has gone, or if no node can read it. Others stay.
func TestSweepRefs(t *testing.T) {
	for _, unusedFor := range []time.Duration{0, 10 * day} {
		server := s3test.New(t)
		digests := filled(t, server, 1)
		n := limited(t, server, 1<<30, unusedFor)
		put := func(name string, d digest.Digest, ago time.Duration) {
			key := "refs/acme/_/hub/x/_/" + name
			putRecord(t, n, server, key, map[string]any{"digest": d})
			server.Age("cache/"+key, time.Now().Add(-ago))
		}
		limit := max(unusedFor, idleFor)
		gone := digest.FromString("gone")
		put("old", gone, limit+time.Hour)
		put("young", gone, limit-time.Hour)
		put("stored", digests[0], 100*day)
		put("updated", gone, limit+time.Hour)
		putAt(server, "cache/refs/acme/_/hub/x/_/forged", "1", 100)
		putAt(server, "cache/refs/acme/_/hub/x/_/large", strings.Repeat("x", maxRecord+1), 100)
		server.OnAnswer(func(_, uri string) {
			if strings.Contains(uri, "prefix=cache%2Frefs%2F") {
				put("updated", digests[0], 0) // by another node
			}
		})
		if swept := sweep(t, n); swept.Records != 3 {
			t.Errorf("unused for %v: %d records removed, want 3", unusedFor, swept.Records)
		}
		for _, name := range []string{"young", "stored", "updated"} {
			if _, ok := server.Get("cache/refs/acme/_/hub/x/_/" + name); !ok {
				t.Errorf("unused for %v: the ref %s is gone", unusedFor, name)
			}
		}
	}
}

// TestSweepRefsOfNodes checks that a node whose ref was swept still has it, and that others
// ask the source.
func TestSweepRefsOfNodes(t *testing.T) {
	server := s3test.New(t)
	one, two := newNode(t, server), limited(t, server, 1<<30, 0)
	filled(t, server, 1)
	x, y := index.New(one), index.New(two)
	setRef(t, x, digest.FromString("gone"), time.Now())
	one.flush(t)
	one.stop()
	server.Age(onlyIn(t, server, "refs"), time.Now().Add(-8*day))
	if swept := sweep(t, two); swept.Records != 1 {
		t.Errorf("got %+v, want one record removed, the ref", swept)
	}
	if _, err := x.Ref(t.Context(), scope, "latest"); err != nil {
		t.Errorf("at the node that has set it: got %v, want the ref", err)
	}
	if _, err := y.Ref(t.Context(), scope, "latest"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("at another one: got %v, want %v", err, fs.ErrNotExist)
	}
}

// TestSweepUnreadableReport checks that a report that cannot be read delays sweeps, since what
// it names would be removed too early, but for no longer than a week and a few sweeps: a
// cluster that was off for a week reads it again first.
func TestSweepUnreadableReport(t *testing.T) {
	const never = -1
	for ago, want := range map[int]string{1: "ab", 8: "b", never: "b"} {
		t.Run(fmt.Sprintf("swept %d days ago", ago), func(t *testing.T) {
			t.Parallel()
			server := s3test.New(t)
			digests := filled(t, server, 20, 1)
			if ago != never {
				putAt(server, "cache/swept", "", ago)
			}
			putAt(server, "cache/used/2001-01-01/other", digests[0].String()+"\n", 5)
			n := limited(t, server, 0, 10*day)
			server.Set(s3test.Faults{Status: 500, Code: "InternalError", Only: "2001-01-01"})
			for range unreadSweeps {
				if _, err := n.sweep(t.Context()); err == nil || left(server, digests) != "ab" {
					t.Errorf("one of the first sweeps goes on: %v", err)
				}
			}
			_, err := n.sweep(t.Context())
			if got := left(server, digests); got != want || (err != nil) != (want == "ab") {
				t.Errorf("left %q, %v, want %q", got, err, want)
			}
		})
	}
}
