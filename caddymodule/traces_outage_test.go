package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestDirectoryTraces checks the spans of questions to GitLab: those of a pull are
// children of its span, and an outage marks them as failed, but a refusal does not.
func TestDirectoryTraces(t *testing.T) {
	g, alice, bob := gitlabtest.NewAcme(t)
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s, c := newTracedSite(t)
	s.AddSecrets(gitlabtest.ServiceToken, "secret-that-must-not-leak")
	s.Load(sitetest.GitlabAt(t, g, "cache_for 1ms", "grace 1ms"), sitetest.Hub(up))
	member, other := sitetest.Bearer(s.TokenFor("alice", alice)), sitetest.Bearer(s.TokenFor("bob", bob))
	c.await("directory login", 2)
	c.forget()
	failed := func(span *trace.Span) bool { return span.Status.GetCode() == trace.Status_STATUS_CODE_ERROR }

	s.ExpectPull("acme", http.StatusOK, member)
	pull := c.await("pull manifest", 1)[0]
	for _, name := range []string{"directory lookup", "directory visibility", "directory role"} {
		spans := c.all(name)
		if len(spans) == 0 {
			t.Errorf("got no span %s, want one", name)
		}
		for _, span := range spans {
			if !within(span, pull) || failed(span) || attribute(span, "dependency_proxy.directory") != "gitlab" {
				t.Errorf("got the span %s, want one of gitlab in that of the pull, without an error", span)
			}
		}
	}
	c.forget()
	s.ExpectPull("acme", http.StatusForbidden, other)
	if pull := c.await("pull manifest", 1)[0]; failed(pull) || attribute(pull, "dependency_proxy.result") != "denied" {
		t.Errorf("denial: got the span %s, want no error", pull)
	}
	c.forget()
	g.Change(func() { g.Fault = sitetest.GitlabFaults["down"] })
	sitetest.Eventually(t, "the answers of GitLab are too old", func() bool {
		return s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), member).StatusCode == http.StatusServiceUnavailable
	})
	sitetest.Eventually(t, "a failed span", func() bool {
		for _, name := range []string{"directory lookup", "directory visibility", "directory role"} {
			for _, span := range c.all(name) {
				if failed(span) {
					return true
				}
			}
		}
		return false
	})
	for _, secret := range append(s.Secrets, "alice", "bob") {
		if strings.Contains(c.text(), secret) {
			t.Errorf("got %q in the spans, want neither accounts nor secrets: %s", secret, c.text())
		}
	}
}

// TestTracesDoNotBlock checks that pulls go on if the collector does not answer.
func TestTracesDoNotBlock(t *testing.T) {
	over := make(chan struct{})
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(collector.Close)
	t.Cleanup(func() { close(over) })
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TIMEOUT": "100",
		"OTEL_BSP_EXPORT_TIMEOUT": "100", "OTEL_BSP_SCHEDULE_DELAY": "1", "OTEL_BSP_MAX_QUEUE_SIZE": "1", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1",
	} {
		t.Setenv(name, value)
	}
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100_000))
	s := sitetest.NewSite(t)
	s.Before = "tracing"
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	for range 5 {
		sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	}
}
