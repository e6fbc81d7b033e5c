package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"
)

func TestError(t *testing.T) {
	e := &Error{Kind: Unavailable, Status: 503, upstream: "docker.io", repository: "library/alpine", message: "manifest 3.20: server error", cause: io.ErrUnexpectedEOF}
	wrapped := fmt.Errorf("pulling: %w", e)
	if want := "pulling: upstream docker.io: library/alpine: manifest 3.20: server error (HTTP 503): unexpected EOF"; wrapped.Error() != want {
		t.Errorf("got %q, want %q", wrapped, want)
	}
	if got := KindOf(wrapped); got != Unavailable {
		t.Errorf("got kind %v, want %v", got, Unavailable)
	}
	if !errors.Is(wrapped, io.ErrUnexpectedEOF) {
		t.Errorf("%v does not wrap %v", wrapped, io.ErrUnexpectedEOF)
	}
	for _, err := range []error{nil, io.EOF} {
		if got := KindOf(err); got != Other {
			t.Errorf("KindOf(%v) = %v, want %v", err, got, Other)
		}
	}
	for kind, want := range map[Kind]string{Other: "other", RateLimited: "rate limited", Invalid: "invalid", 200: "kind 200"} {
		if got := kind.String(); got != want {
			t.Errorf("name of kind %d: got %q, want %q", uint8(kind), got, want)
		}
	}
}

// TestRegistryTransportErrors checks that errors of a transport lose their URLs, and
// that its timeouts are not taken for the caller's.
func TestRegistryTransportErrors(t *testing.T) {
	broken := errors.New("broken")
	withURL := func(err error) error {
		return fmt.Errorf("around http://h/?that-must-not-leak: %w", &url.Error{Op: "Get", URL: "http://h/?that-must-not-leak", Err: err})
	}
	for _, test := range []struct {
		err  error
		kind Kind
	}{
		{broken, Unavailable},
		{withURL(broken), Unavailable},
		{withURL(withURL(broken)), Unavailable},
		{context.DeadlineExceeded, Timeout},
		{context.Canceled, Unavailable},
		{nil, Unavailable},
	} {
		u := clientAt(t, "http://h", roundTripper(func(*http.Request) (*http.Response, error) { return nil, test.err }))
		_, err := u.Manifest(t.Context(), "a", "1")
		wantKind(t, err, test.kind)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			t.Errorf("%v wraps a context error, want none", err)
		}
		if errors.Is(test.err, broken) && !errors.Is(err, broken) {
			t.Errorf("%v does not wrap %v", err, broken)
		}
	}
}

// TestRegistryContextErrors checks that the end of the caller's context is
// distinguished from the registry's own timeout.
func TestRegistryContextErrors(t *testing.T) {
	waiting := make(chan struct{}, 1)
	u := clientAt(t, "http://h", roundTripper(func(r *http.Request) (*http.Response, error) {
		waiting <- struct{}{}
		<-r.Context().Done()
		return nil, context.Cause(r.Context())
	}))
	calls := map[string]func(context.Context) error{
		"manifest": func(ctx context.Context) error { _, err := u.Manifest(ctx, "a", "1"); return err },
		"resolve":  func(ctx context.Context) error { _, err := u.ResolveManifest(ctx, "a", "1"); return err },
		"stat":     func(ctx context.Context) error { _, err := u.StatBlob(ctx, "a", digestOf(""), -1); return err },
		"blob":     func(ctx context.Context) error { _, err := u.Blob(ctx, "a", digestOf(""), 0, -1, ""); return err },
		"tags":     func(ctx context.Context) error { _, err := u.Tags(ctx, "a", nil); return err },
		"referrers": func(ctx context.Context) error {
			_, err := u.Referrers(ctx, "a", digestOf(""), "")
			return err
		},
	}
	for name, call := range calls {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-waiting; cancel() }()
		if err := call(ctx); !errors.Is(err, context.Canceled) || KindOf(err) != Other {
			t.Errorf("%s, canceled: got %v, want %v of kind other", name, err, context.Canceled)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Nanosecond)
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) || KindOf(err) != Other {
			t.Errorf("%s, caller's deadline: got %v, want %v of kind other", name, err, context.DeadlineExceeded)
		}
		cancel()
		<-waiting
	}
	u.timeout = time.Nanosecond
	for name, call := range calls {
		err := call(t.Context())
		if KindOf(err) != Timeout || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			t.Errorf("%s, own timeout: got %v, want kind %v without a context error", name, err, Timeout)
		}
		<-waiting
	}
}
