package caddymodule

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

// collectorServer receives the spans that Caddy exports by OTLP over HTTP.
type collectorServer struct {
	t     testing.TB
	mu    sync.Mutex
	spans []*trace.Span
}

// newCollector starts a collector, and makes the directive tracing export to it at
// once.
func newCollector(t *testing.T) *collectorServer {
	t.Helper()
	c := &collectorServer{t: t}
	server := httptest.NewServer(http.HandlerFunc(c.receive))
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
	return c
}

// newTracedSite returns a site with the directive tracing, and the collector to which it
// exports. The span of a request is called site.
func newTracedSite(t *testing.T) (*sitetest.Site, *collectorServer) {
	t.Helper()
	c := newCollector(t)
	s := sitetest.NewSite(t)
	s.Before = "tracing {\n span site\n}"
	return s, c
}

func (c *collectorServer) receive(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &request); err != nil {
		c.t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// all returns the spans that have arrived and have a name.
func (c *collectorServer) all(name string) (found []*trace.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, span := range c.spans {
		if span.Name == name {
			found = append(found, span)
		}
	}
	return found
}

// await waits for a number of spans with a name.
func (c *collectorServer) await(name string, number int) []*trace.Span {
	c.t.Helper()
	sitetest.Eventually(c.t, "spans "+name, func() bool { return len(c.all(name)) >= number })
	found := c.all(name)
	if len(found) != number {
		c.t.Fatalf("got %d spans %s, want %d", len(found), name, number)
	}
	return found
}

// forget removes the spans that have arrived.
func (c *collectorServer) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans = nil
}

// text returns the names and the texts of all spans, to be searched for secrets.
func (c *collectorServer) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all strings.Builder
	for _, span := range c.spans {
		all.WriteString(span.Name + " " + span.Status.GetMessage())
		for _, a := range span.Attributes {
			all.WriteString(" " + a.Key + "=" + attribute(span, a.Key))
		}
		all.WriteString("\n")
	}
	return all.String()
}

// links reports whether a span is linked to another.
func links(from, to *trace.Span) bool {
	return slices.ContainsFunc(from.Links, func(link *trace.Span_Link) bool {
		return hex.EncodeToString(link.SpanId) == hex.EncodeToString(to.SpanId) && hex.EncodeToString(link.TraceId) == hex.EncodeToString(to.TraceId)
	})
}

// within reports whether a span is a child of another.
func within(child, parent *trace.Span) bool {
	return hex.EncodeToString(child.ParentSpanId) == hex.EncodeToString(parent.SpanId) && hex.EncodeToString(child.TraceId) == hex.EncodeToString(parent.TraceId)
}

// attribute returns the text of an attribute of a span, or "".
func attribute(span *trace.Span, key string) string {
	for _, a := range span.Attributes {
		if a.Key != key {
			continue
		}
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			return v.StringValue
		case *common.AnyValue_ArrayValue:
			return v.ArrayValue.Values[0].GetStringValue()
		}
		return a.Value.String()
	}
	return ""
}
