package bucket

import (
	"errors"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// filled returns a bucket with content of 1000 bytes each, uploaded so many days ago.
func filled(t *testing.T, server *s3test.Server, days ...int) (digests []digest.Digest) {
	t.Helper()
	for i, ago := range days {
		content := strings.Repeat(string(rune('a'+i)), 1000)
		d := digest.FromString(content)
		server.Put(objectOf(d), []byte(content))
		server.Age(objectOf(d), time.Now().Add(-time.Duration(ago)*day))
		digests = append(digests, d)
	}
	return digests
}

// left describes which content is in the bucket.
func left(server *s3test.Server, digests []digest.Digest) string {
	var text strings.Builder
	for i, d := range digests {
		if _, ok := server.Get(objectOf(d)); ok {
			text.WriteByte(byte('a' + i))
		}
	}
	return text.String()
}

// TestSweep: content that no node has used for too long goes, and the least recently
// used content over the size. Nothing else goes.
func TestSweep(t *testing.T) {
	for name, test := range map[string]struct {
		maxSize   int64
		unusedFor time.Duration
		want      string
	}{
		"no limits":  {0, 0, "abcd"},
		"fits":       {4000, 50 * day, "abcd"},
		"unused":     {0, 15 * day, "bcd"},
		"size":       {3000, 0, "bc"},
		"both":       {3999, 9 * day, "bc"},
		"everything": {0, time.Nanosecond, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			digests := filled(t, server, 20, 20, 5, 10)
			server.Put("cache/blobs/sha256/ab/other", []byte("not one of ours"))
			// The second was used two days ago at another node.
			used := time.Now().UTC().Add(-2 * day).Format(dayFormat)
			server.Put("cache/used/"+used+"/other", []byte(digests[1].String()+"\nnonsense\n"))
			server.Put("cache/used/2001-01-01/other", []byte(digests[0].String()+"\n"))
			config := configOf(t, server, t.TempDir())
			config.MaxSize, config.UnusedFor = test.maxSize, test.unusedFor
			s, err := Open(config)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.sweep(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
			if got := left(server, digests); got != test.want {
				t.Errorf("left %q, want %q", got, test.want)
			}
			if _, ok := server.Get("cache/blobs/sha256/ab/other"); !ok {
				t.Error("an object that is not of the cache is gone")
			}
			if _, ok := server.Get("cache/used/2001-01-01/other"); ok {
				t.Error("the uses of 2001 are still there")
			}
		})
	}
}

// TestSweepKnowsUses: what a node has used today stays, although it was uploaded long
// ago.
func TestSweepKnowsUses(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	config.UnusedFor = 10 * day
	n := start(t, config)
	d := n.put(t, someContent)
	n.flush(t)
	server.Age(objectOf(d), time.Now().Add(-20*day))
	now := time.Now()
	if err := n.Touch(t.Context(), d, now); err != nil {
		t.Fatal(err)
	}
	if err := n.saveUses(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if removed, err := newNodeWith(t, server, 10*day).sweep(t.Context(), now); removed != 0 || err != nil {
		t.Errorf("removed %d, %v; want nothing", removed, err)
	}
	if removed, err := newNodeWith(t, server, 10*day).sweep(t.Context(), now.Add(12*day)); removed != 1 || err != nil {
		t.Errorf("12 days later: removed %d, %v; want the object", removed, err)
	}
}

func newNodeWith(t *testing.T, server *s3test.Server, unusedFor time.Duration) *node {
	t.Helper()
	config := configOf(t, server, t.TempDir())
	config.UnusedFor = unusedFor
	return start(t, config)
}

// TestSweepTwice: two nodes that sweep at once remove no more than one, and a bucket
// that fails ends a sweep without harm.
func TestSweepTwice(t *testing.T) {
	server := s3test.New(t)
	digests := filled(t, server, 20, 20, 20, 1)
	one, two := newNodeWith(t, server, 10*day), newNodeWith(t, server, 10*day)
	server.Set(s3test.Faults{Status: 503, Code: "SlowDown"})
	if removed, err := one.sweep(t.Context(), time.Now()); removed != 0 || err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a bucket that throttles: removed %d, %v", removed, err)
	}
	server.Set(s3test.Faults{})
	var both sync.WaitGroup
	for _, n := range []*node{one, two} {
		both.Go(func() {
			if _, err := n.sweep(t.Context(), time.Now()); err != nil {
				t.Errorf("sweep: %v", err)
			}
		})
	}
	both.Wait()
	if got := left(server, digests); got != "d" {
		t.Errorf("left %q, want d", got)
	}
}
