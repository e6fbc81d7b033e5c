package fill

import (
	"context"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// scope names the instrumentation.
const scope = "github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"

// startSpan starts the span of a fill if the request of ctx, which starts the fill, is
// traced. It returns a context with it, whose requests to the source are in it.
//
// The span is in the trace of that request, so that a sampler decides about both
// alike, and lasts as long as the fill, which may be longer. If the tracer provider ends
// before, the span is lost. The link tells the request from others that wait for the
// fill, which link to the fill.
func startSpan(ctx context.Context, d digest.Digest) (context.Context, trace.Span) {
	request := trace.SpanFromContext(ctx)
	if !request.SpanContext().IsSampled() {
		return ctx, trace.SpanFromContext(context.Background()) // does nothing
	}
	return request.TracerProvider().Tracer(scope).Start(ctx, "fill",
		trace.WithLinks(trace.Link{SpanContext: request.SpanContext()}),
		trace.WithAttributes(attribute.String("dependency_proxy.digest", d.String())))
}

// linkFrom links the span of another request that follows the fill to that of the fill.
func (f *fill) linkFrom(ctx context.Context) {
	if fill := f.span.SpanContext(); fill.IsValid() {
		trace.SpanFromContext(ctx).AddLink(trace.Link{SpanContext: fill})
	}
}

// endSpan ends the span of the fill.
func (f *fill) endSpan(err error) {
	if !f.span.IsRecording() {
		return
	}
	f.span.SetAttributes(attribute.Int64("dependency_proxy.size", f.written))
	if err != nil {
		f.span.SetStatus(codes.Error, err.Error())
	}
	f.span.End()
}
