package storage_test

import (
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
)

// TestEvictedIsLogged: content that is evicted before it was uploaded is a warning, and
// counted apart; other evictions are no news.
func TestEvictedIsLogged(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	hooks := metrics.CountCache(storage.LogHooks(func() *zap.Logger { return zap.New(core) }))
	for reason, level := range map[blobcache.Reason]zapcore.Level{blobcache.ReasonLost: zapcore.WarnLevel, blobcache.ReasonSize: zapcore.DebugLevel} {
		before := evictedBytes(t, reason)
		hooks.Evicted(store.Entry{Digest: digest.FromString("x"), Size: 1000}, reason, 7)
		if got := evictedBytes(t, reason) - before; got != 1000 {
			t.Errorf("%s: %v bytes are counted, want 1000", reason, got)
		}
		lines := logs.TakeAll()
		if len(lines) != 1 || lines[0].Level != level || lines[0].ContextMap()["reason"] != string(reason) || lines[0].ContextMap()["digest"] != digest.FromString("x").String() {
			t.Errorf("%s: got %+v, want a line of level %v with the digest", reason, lines, level)
		}
	}
}

func evictedBytes(t *testing.T, reason blobcache.Reason) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := metrics.Register(registry); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == metrics.Prefix+"evicted_bytes_total" && m.GetLabel()[0].GetValue() == string(reason) {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("there is no counter of the reason %s", reason)
	return 0
}
