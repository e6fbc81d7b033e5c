package blobcache

import (
	"context"
	"maps"
	"testing"
	"testing/synctest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// limitedRecords are records with a copy elsewhere.
type limitedRecords struct {
	store.Records
	limits map[string]int64
}

func (r *limitedRecords) LimitOwners(limits map[string]int64) (release func()) {
	r.limits = limits
	return func() { r.limits = nil }
}

// TestQuotasLimitCopies: the quotas hold for the copy of the storage while they are kept.
func TestQuotasLimitCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, files := kept(t, t.TempDir(), Limits{})
		records := &limitedRecords{Records: files}
		limits := map[string]int64{"acme": 1000}
		q := NewQuotas(c, index.New(records), limits)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); q.Keep(ctx) }()
		synctest.Wait()
		if !maps.Equal(records.limits, limits) {
			t.Errorf("while they are kept: got %v, want %v", records.limits, limits)
		}
		stop()
		<-done
		if records.limits != nil {
			t.Errorf("afterwards: got %v, want none", records.limits)
		}
	})
}
