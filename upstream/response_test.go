package upstream

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slowBody is the body of a large response that pauses after smallRead. It counts how
// many of its kind are read beyond that at a time.
type slowBody struct {
	io.Reader
	read              int
	current, greatest *atomic.Int32
}

func (b *slowBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.read += n; b.read > smallRead && b.read-n <= smallRead {
		if n := b.current.Add(1); n > b.greatest.Load() {
			b.greatest.Store(n)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err == io.EOF && b.read > smallRead {
		b.current.Add(-1)
	}
	return n, err
}

func (b *slowBody) Close() error { return nil }

// TestRegistryLimitsLargeReads checks that the number of large responses that are read
// at a time is limited, and that all of them complete.
func TestRegistryLimitsLargeReads(t *testing.T) {
	var current, greatest atomic.Int32
	content := `{"schemaVersion":2,"config":{},"layers":[],"pad":"` + strings.Repeat("x", 200_000) + `"}`
	u := clientAt(t, "http://h", roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, ContentLength: int64(len(content)), Header: http.Header{},
			Body: &slowBody{Reader: strings.NewReader(content), current: &current, greatest: &greatest}}, nil
	}))
	var all sync.WaitGroup
	for range 3 * maxLargeReads {
		all.Go(func() {
			if m, err := u.Manifest(t.Context(), "a", "1"); err != nil || string(m.Content) != content {
				t.Errorf("got %d bytes, %v, want %d", len(m.Content), err, len(content))
			}
		})
	}
	all.Wait()
	if n := greatest.Load(); n > maxLargeReads {
		t.Errorf("got %d reads at a time, want at most %d", n, maxLargeReads)
	}
}
