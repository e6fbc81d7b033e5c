package traces

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// transport makes spans of requests to an upstream.
type transport struct {
	http.RoundTripper
	upstream string
}

// Transport returns a transport that makes a span of each request that it sends to an
// upstream or to a server that the upstream refers to, such as its token service. The
// span has the name and the attributes of an HTTP client span, and ends with the body
// of the response.
func Transport(next http.RoundTripper, upstream string) http.RoundTripper {
	return &transport{next, upstream}
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	tracer := tracer(r.Context())
	if tracer == nil {
		return t.RoundTripper.RoundTrip(r)
	}
	// The request keeps its context, so the span cannot be propagated.
	_, span := tracer.Start(r.Context(), r.Method, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(t.attributes(r)...))
	if template := templateOf(r.URL.Path); template != "" {
		span.SetName(r.Method + " " + template)
		span.SetAttributes(attribute.String("url.template", template))
	}
	response, err := t.RoundTripper.RoundTrip(r)
	if err != nil || response == nil {
		fail(span, errorType(err))
		span.End()
		return response, err
	}
	span.SetAttributes(attribute.Int("http.response.status_code", response.StatusCode),
		attribute.String("network.protocol.version", fmt.Sprintf("%d.%d", response.ProtoMajor, response.ProtoMinor)))
	// 401 is part of each login, and 404 an answer.
	if status := response.StatusCode; status >= http.StatusBadRequest && status != http.StatusUnauthorized && status != http.StatusNotFound {
		fail(span, strconv.Itoa(status))
	}
	if response.Body == nil || response.Body == http.NoBody {
		span.End()
		return response, nil
	}
	response.Body = &body{ReadCloser: response.Body, span: span}
	return response, nil
}

// attributes returns those that are known before the response. The user and the query
// of a URL may be secret, and so may the path where a registry redirects to.
func (t *transport) attributes(r *http.Request) []attribute.KeyValue {
	public := url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host}
	if templateOf(r.URL.Path) != "" {
		public.Path, public.RawPath = r.URL.Path, r.URL.RawPath
	}
	port := 443
	if r.URL.Scheme == "http" {
		port = 80
	}
	if n, err := strconv.Atoi(r.URL.Port()); err == nil {
		port = n
	}
	return []attribute.KeyValue{
		attribute.String("http.request.method", r.Method),
		attribute.String("url.full", public.String()),
		attribute.String("server.address", r.URL.Hostname()),
		attribute.Int("server.port", port),
		attribute.String("dependency_proxy.upstream", t.upstream),
	}
}

// templateOf returns the template of a path of a registry, or "" for any other path
// (OCI distribution specification, "Endpoints").
func templateOf(path string) string {
	if !strings.Contains(path, "/v2/") {
		return ""
	}
	parts := strings.Split(path, "/")
	switch parts[len(parts)-2] {
	case "manifests":
		return "/v2/{name}/manifests/{reference}"
	case "blobs":
		return "/v2/{name}/blobs/{digest}"
	case "referrers":
		return "/v2/{name}/referrers/{digest}"
	case "tags":
		return "/v2/{name}/tags/list"
	case "v2":
		return "/v2/"
	}
	return ""
}

// fail marks a span as failed. The text of an error is not recorded: that of a
// transport may have a whole URL.
func fail(span trace.Span, kind string) {
	span.SetAttributes(attribute.String("error.type", kind))
	span.SetStatus(codes.Error, "")
}

// errorType returns the type of an error, one of few.
func errorType(err error) string {
	if network := net.Error(nil); errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network) && network.Timeout() {
		return "timeout"
	}
	if errors.Is(err, context.Canceled) {
		return "canceled"
	}
	if dial := (*net.OpError)(nil); errors.As(err, &dial) {
		return dial.Op // dial, read or write
	}
	return fmt.Sprintf("%T", err)
}

// body ends the span of its request when it ends.
type body struct {
	io.ReadCloser
	span trace.Span
	size atomic.Int64
	end  sync.Once
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.size.Add(int64(n))
	if err != nil {
		b.ended(err)
	}
	return n, err
}

// Close implements [io.Closer].
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.ended(io.EOF)
	return err
}

func (b *body) ended(err error) {
	b.end.Do(func() {
		b.span.SetAttributes(attribute.Int64("http.response.body.size", b.size.Load()))
		if err != io.EOF {
			fail(b.span, errorType(err))
		}
		b.span.End()
	})
}
