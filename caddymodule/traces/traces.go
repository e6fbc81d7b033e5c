// Package traces makes spans of what happens during a request, in the trace that
// Caddy's directive tracing has started. A request without one has no spans, and costs
// nothing but a look at its context.
//
// The spans come from the tracer provider of the request's own span, which ends with
// the last configuration that traces. Spans that end later, such as those of a download
// that goes on, may be lost, and never wait.
//
// Names and attributes are those of OpenTelemetry's semantic conventions where there
// are some; the others begin with dependency_proxy. Spans have neither accounts nor
// addresses of clients nor queries of URLs, which may be presigned. No header about a
// trace is sent to an upstream.
package traces

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
)

// scope names the instrumentation.
const scope = "github.com/dependencyproxy/caddy-dependency-proxy"

// tracer returns the tracer of the request that ctx belongs to, or nil if the request
// is not traced. The span in ctx may have ended.
func tracer(ctx context.Context) trace.Tracer {
	span := trace.SpanFromContext(ctx)
	if !span.SpanContext().IsSampled() {
		return nil
	}
	return span.TracerProvider().Tracer(scope)
}

// names are the names of the spans of pulls.
var names = [record.Ping + 1]string{
	record.Manifest: "pull manifest", record.Blob: "pull blob", record.Tags: "list tags", record.Referrers: "list referrers",
}

// Pull is the span of a request for content.
type Pull struct{ span trace.Span }

// StartPull starts the span of a request for content of a kind, and returns a context
// with it. The result is nil, and the context is ctx, if the request is not traced or
// is of another kind.
func StartPull(ctx context.Context, kind record.Kind) (context.Context, *Pull) {
	name := names[kind]
	if name == "" {
		return ctx, nil
	}
	t := tracer(ctx)
	if t == nil {
		return ctx, nil
	}
	ctx, span := t.Start(ctx, name)
	return ctx, &Pull{span}
}

// End ends the span with the record of the request.
func (p *Pull) End(r *record.Request) {
	if p == nil {
		return
	}
	set := func(key, value string) {
		if value != "" {
			p.span.SetAttributes(attribute.String(key, value))
		}
	}
	set("dependency_proxy.group", r.Group)
	set("dependency_proxy.upstream", r.Upstream)
	set("dependency_proxy.result", r.Result.String())
	set("dependency_proxy.source", r.Source.String())
	if r.Repository != "" {
		set("container.image.name", r.Upstream+"/"+r.Repository)
	}
	if r.Tag != "" {
		p.span.SetAttributes(attribute.StringSlice("container.image.tags", []string{r.Tag}))
	}
	if r.Kind == record.Manifest {
		set("oci.manifest.digest", string(r.Digest))
	} else {
		set("dependency_proxy.digest", string(r.Digest))
	}
	p.span.SetAttributes(attribute.Int("http.response.status_code", r.Status), attribute.Int64("http.response.body.size", r.Bytes))
	if failed(r) {
		set("error.type", r.Result.String())
		p.span.SetStatus(codes.Error, "")
	}
	p.span.End()
}

// failed reports whether a request has failed here or at the upstream. An invalid
// request has not.
func failed(r *record.Request) bool {
	switch r.Result {
	case record.Unavailable, record.RateLimited:
		return true
	case record.Error:
		return r.Status < http.StatusBadRequest || r.Status >= http.StatusInternalServerError
	}
	return false
}

// untraced is the end of a question that is not traced, and does nothing.
func untraced(error) {}

// StartDirectory starts the span of a question to a directory, and returns a context
// with it and a function that ends it. A refusal is an answer: failed must be nil for
// it.
func StartDirectory(ctx context.Context, directory, operation string) (_ context.Context, end func(failed error)) {
	t := tracer(ctx)
	if t == nil {
		return ctx, untraced
	}
	ctx, span := t.Start(ctx, "directory "+operation, trace.WithAttributes(attribute.String("dependency_proxy.directory", directory)))
	return ctx, func(failed error) {
		if failed != nil {
			// The text may say who could not be looked up. It is in the log.
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}
