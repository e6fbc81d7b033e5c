package bucket

import (
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store/storetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// faults are the ways in which a bucket fails. Each of them leaves the local tier as
// good as without a bucket.
var faults = map[string]s3test.Faults{
	"works":           {},
	"down":            {Down: true},
	"stalled":         {Stalled: true},
	"body stalled":    {StalledBody: true},
	"throttling":      {Status: 503, Code: "SlowDown"},
	"denying":         {Status: 403, Code: "AccessDenied"},
	"missing":         {Status: 404, Code: "NoSuchBucket"},
	"internal errors": {Status: 500, Code: "InternalError"},
	"full":            {Full: true},
	"wrong bytes":     {Wrong: true},
	"cut":             {Cut: true},
	"wrong key":       {AccessKey: "another"},
}

// TestConformance: the store keeps the promises of a store, whatever the bucket does.
func TestConformance(t *testing.T) {
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open := func(t *testing.T) *Store {
				server := s3test.New(t)
				server.Set(fault)
				config := configOf(t, server, t.TempDir())
				if fault.Stalled || fault.StalledBody {
					config.waits.record, config.waits.answer = shortWaits.maxPause, shortWaits.maxPause
				}
				return start(t, config).Store
			}
			// The store only uploads blobs, which faults of what is read do not concern.
			if !fault.StalledBody && !fault.Wrong && !fault.Cut {
				t.Run("blobs", func(t *testing.T) {
					t.Parallel()
					storetest.RunBlobs(t, func(t *testing.T) store.Blobs { return open(t) })
				})
			}
			t.Run("records", func(t *testing.T) {
				t.Parallel()
				storetest.RunRecords(t, func(t *testing.T) store.Records { return open(t) })
			})
		})
	}
}
