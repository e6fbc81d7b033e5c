package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// TestTransportErrors checks that what a transport says is stripped of URLs, and
// that its timeouts are not the caller's.
func TestTransportErrors(t *testing.T) {
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
			t.Errorf("%v looks like the caller's own doing", err)
		}
		if errors.Is(test.err, broken) && !errors.Is(err, broken) {
			t.Errorf("the cause is lost: %v", err)
		}
	}
}

func TestTimeAndCancel(t *testing.T) {
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
			t.Errorf("%s, cancelled: %v", name, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Nanosecond)
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) || KindOf(err) != Other {
			t.Errorf("%s, caller's deadline: %v", name, err)
		}
		cancel()
		<-waiting
	}
	u.limit = time.Nanosecond
	for name, call := range calls {
		err := call(t.Context())
		if KindOf(err) != Timeout || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			t.Errorf("%s, own limit: %v", name, err)
		}
		<-waiting
	}
}
