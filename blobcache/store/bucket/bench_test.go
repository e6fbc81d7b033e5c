package bucket

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// BenchmarkSweepReports measures the first sweep of 100,000 blobs after 20 nodes have reported
// 10,000 of them on each of 18 days, and the second one, which has merged reports. The sweeps
// do not pause between requests.
func BenchmarkSweepReports(b *testing.B) {
	const blobs, days, nodes, each = 100_000, 18, 20, 10_000
	server := s3test.New(b)
	digests := make([]digest.Digest, blobs)
	for i := range digests {
		digests[i] = digest.FromString(fmt.Sprint(i))
		server.Put(objectOf(digests[i]), []byte("x"))
	}
	for ago := range days {
		for node := range nodes {
			var lines strings.Builder
			for range each {
				fmt.Fprintln(&lines, digests[rand.N(blobs)])
			}
			at := time.Now().Add(-time.Duration(ago) * day)
			key := fmt.Sprintf("cache/used/%s/node%d", at.Format(dayFormat), node)
			server.Put(key, []byte(lines.String()))
			server.Age(key, at)
		}
	}
	for _, name := range []string{"first", "second"} {
		b.Run(name, func(b *testing.B) {
			var received atomic.Int64
			config := configOf(b, server, b.TempDir())
			config.UnusedFor, config.waits.sweepRate = 180*day, 1e6
			config.Transferred = func(_, n int) { received.Add(int64(n)) }
			s, err := Open(config)
			if err != nil {
				b.Fatal(err)
			}
			requests := func() int { return server.Requests("") + server.Requests(s3test.List) }
			before := requests()
			server.Lose("cache/swept")
			for b.Loop() {
				if _, err := s.sweep(b.Context()); err != nil && !errors.Is(err, errNotDue) {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(requests()-before), "requests")
			b.ReportMetric(float64(received.Load())/1e6, "MB")
		})
	}
}

// BenchmarkSweep measures a sweep of 100,000 blobs, each with a link and a delivery, of
// which none, or one in a hundred, has not been used for too long. Three nodes have
// reported on 30 days, 2,000 blobs each. It keeps the pace of a real sweep.
func BenchmarkSweep(b *testing.B) {
	const blobs, days = 100_000, 30
	for _, unused := range []int{0, blobs / 100} {
		b.Run(fmt.Sprint(unused, " unused"), func(b *testing.B) {
			server := s3test.New(b)
			digests := make([]digest.Digest, blobs)
			for i := range digests {
				d := digest.FromString(fmt.Sprint(i))
				digests[i] = d
				for _, key := range []string{objectOf(d), "cache/links/acme/_/hub/library/x/_/sha256/" + d.Encoded(), "cache/deliveries/hub/_/sha256/" + d.Encoded()[:2] + "/" + d.Encoded()} {
					server.Put(key, []byte("x"))
					if i < unused {
						server.Age(key, time.Now().Add(-200*day))
					}
				}
			}
			for ago := range days {
				for node := range 3 {
					var lines strings.Builder
					for range 2000 {
						fmt.Fprintln(&lines, digests[unused+rand.N(blobs-unused)])
					}
					at := time.Now().Add(-time.Duration(ago) * day)
					key := fmt.Sprintf("cache/used/%s/node%d", at.Format(dayFormat), node)
					server.Put(key, []byte(lines.String()))
					server.Age(key, at)
				}
			}
			config := configOf(b, server, b.TempDir())
			config.UnusedFor, config.MaxSize, config.waits.sweepRate = 180*day, 1<<40, 0
			s, err := Open(config)
			if err != nil {
				b.Fatal(err)
			}
			defer s.LimitOwners(map[string]int64{"acme": 1 << 40})()
			requests := func() int { return server.Requests("") + server.Requests(s3test.List) }
			before := requests()
			for b.Loop() {
				swept, err := s.sweep(b.Context())
				if err != nil || swept.Removed != unused || swept.Stored != blobs {
					b.Fatalf("got %+v, %v", swept, err)
				}
				b.StopTimer()
				server.Lose("cache/swept")
				b.StartTimer()
			}
			b.ReportMetric(float64(requests()-before)/float64(b.N), "requests/op")
		})
	}
}
