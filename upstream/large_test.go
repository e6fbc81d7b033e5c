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

// countingBody is a large manifest that comes slowly, and counts how many of its
// kind are being read beyond what is small.
type countingBody struct {
	io.Reader
	read      int
	now, most *atomic.Int32
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.read += n; b.read > smallAnswer && b.read-n <= smallAnswer {
		if now := b.now.Add(1); now > b.most.Load() {
			b.most.Store(now)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return n, err
}

func (b *countingBody) Close() error {
	if b.read > smallAnswer {
		b.now.Add(-1)
	}
	return nil
}

// TestLargeAnswersTakeTurns: an upstream that sends many large answers slowly fills
// no memory with them. All of them come.
func TestLargeAnswersTakeTurns(t *testing.T) {
	var now, most atomic.Int32
	content := `{"schemaVersion":2,"config":{},"layers":[],"pad":"` + strings.Repeat("x", 200_000) + `"}`
	u := clientAt(t, "http://h", roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, ContentLength: int64(len(content)), Header: http.Header{},
			Body: &countingBody{Reader: strings.NewReader(content), now: &now, most: &most}}, nil
	}))
	var all sync.WaitGroup
	for range 3 * largeAnswers {
		all.Go(func() {
			if m, err := u.Manifest(t.Context(), "a", "1"); err != nil || string(m.Content) != content {
				t.Errorf("%d bytes, %v", len(m.Content), err)
			}
		})
	}
	all.Wait()
	if n := most.Load(); n > largeAnswers {
		t.Errorf("%d were read at once, want %d at most", n, largeAnswers)
	}
}
