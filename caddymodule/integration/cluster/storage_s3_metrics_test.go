package cluster

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestStorageS3Metrics checks that the metrics and the status show what is to be uploaded
// while the bucket fails, and what was sent when it works.
func TestStorageS3Metrics(t *testing.T) {
	server, up := s3test.New(t), registrytest.New(t)
	server.Set(s3test.Faults{Status: http.StatusServiceUnavailable, Code: "SlowDown"})
	up.PutImage("team/app", "1", sitetest.Random(1, 5000))
	s := sitetest.InBucket(t, server)
	s.Before = "handle /metrics {\n metrics\n}"
	s.OpenAdmin()
	s.Load(sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Hub(up))
	before := s.Scrape()
	sitetest.Pull(t, s, "red", "team/app", "1", sitetest.As("alice"))
	find := func(seen sitetest.Scrape, name string) (value float64) {
		for series, v := range seen {
			if strings.HasPrefix(series, name) {
				value = max(value, v)
			}
		}
		return value
	}
	sitetest.Eventually(t, "the metrics show that the bucket fails", func() bool {
		seen := s.Scrape()
		return seen[`uploads_waiting{content="blob",storage="`+storageLabel(seen)+`"}`] == 3 && find(seen, `bucket_failing_seconds{access="write"`) > 0 &&
			find(seen, "uploads_oldest_seconds") > 0 && find(seen, `bucket_requests_total{code="503",operation="put"}`) > before[`bucket_requests_total{code="503",operation="put"}`]
	})
	labels := s.Scrape().Labels()
	for _, d := range metrics.All() {
		name := strings.TrimPrefix(d.Name, metrics.Prefix)
		want := strings.Join(slices.Sorted(slices.Values(d.Labels)), ",")
		if (strings.HasPrefix(name, "bucket_") || strings.HasPrefix(name, "uploads_")) && !slices.Equal(labels[name], []string{want}) {
			t.Errorf("%s: got the labels %q, want %q", name, labels[name], want)
		}
	}
	for _, command := range [][]string{{"cache", "status"}, {"status"}} {
		if text := s.MustCommand(command...); !strings.Contains(text, "3 blobs and ") || !strings.Contains(text, "writes fail  ") {
			t.Errorf("%v: got\n%s\nwant the queue and the failure", command, text)
		}
	}
	server.Set(s3test.Faults{})
	sitetest.Eventually(t, "the metrics show that all is uploaded", func() bool {
		seen := s.Scrape()
		return find(seen, "uploads_waiting") == 0 && find(seen, "uploads_oldest_seconds") == 0 && find(seen, `bucket_failing_seconds{access="write"`) == 0 &&
			seen[`bucket_bytes_total{direction="sent"}`]-before[`bucket_bytes_total{direction="sent"}`] > 5000
	})
}

// storageLabel returns the label storage of the only storage.
func storageLabel(seen sitetest.Scrape) string {
	for series := range seen {
		if _, label, ok := strings.Cut(series, `uploads_waiting{content="blob",storage="`); ok {
			return strings.TrimSuffix(label, `"}`)
		}
	}
	return ""
}
