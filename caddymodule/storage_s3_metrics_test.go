package caddymodule

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestStorageS3Metrics checks that the metrics and the status show what is to be uploaded
// while the bucket fails, and what was sent when it works.
func TestStorageS3Metrics(t *testing.T) {
	server, up := s3test.New(t), registrytest.New(t)
	server.Set(s3test.Faults{Status: http.StatusServiceUnavailable, Code: "SlowDown"})
	up.PutImage("team/app", "1", random(1, 5000))
	s := inBucket(t, server)
	s.before = "handle /metrics {\n metrics\n}"
	s.openAdmin()
	s.load(users("alice"), private("red", "alice"), hub(up))
	before := s.scrape()
	pull(t, s, "red", "team/app", "1", as("alice"))
	find := func(seen scrape, name string) (value float64) {
		for series, v := range seen {
			if strings.HasPrefix(series, name) {
				value = max(value, v)
			}
		}
		return value
	}
	eventually(t, "the metrics show that the bucket fails", func() bool {
		seen := s.scrape()
		return seen[`uploads_waiting{content="blob",storage="`+storageLabel(seen)+`"}`] == 3 && find(seen, `bucket_failing_seconds{access="write"`) > 0 &&
			find(seen, "uploads_oldest_seconds") > 0 && find(seen, `bucket_requests_total{code="503",operation="put"}`) > before[`bucket_requests_total{code="503",operation="put"}`]
	})
	labels := s.scrape().labels()
	for _, d := range metrics.All() {
		name := strings.TrimPrefix(d.Name, metrics.Prefix)
		want := strings.Join(slices.Sorted(slices.Values(d.Labels)), ",")
		if (strings.HasPrefix(name, "bucket_") || strings.HasPrefix(name, "uploads_")) && !slices.Equal(labels[name], []string{want}) {
			t.Errorf("%s: got the labels %q, want %q", name, labels[name], want)
		}
	}
	for _, command := range [][]string{{"cache", "status"}, {"status"}} {
		if text := s.mustCommand(command...); !strings.Contains(text, "3 blobs and ") || !strings.Contains(text, "writes fail  ") {
			t.Errorf("%v: got\n%s\nwant the queue and the failure", command, text)
		}
	}
	server.Set(s3test.Faults{})
	eventually(t, "the metrics show that all is uploaded", func() bool {
		seen := s.scrape()
		return find(seen, "uploads_waiting") == 0 && find(seen, "uploads_oldest_seconds") == 0 && find(seen, `bucket_failing_seconds{access="write"`) == 0 &&
			seen[`bucket_bytes_total{direction="sent"}`]-before[`bucket_bytes_total{direction="sent"}`] > 5000
	})
}

// storageLabel returns the label storage of the only storage.
func storageLabel(seen scrape) string {
	for series := range seen {
		if _, label, ok := strings.Cut(series, `uploads_waiting{content="blob",storage="`); ok {
			return strings.TrimSuffix(label, `"}`)
		}
	}
	return ""
}
