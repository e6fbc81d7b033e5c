package bucket

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// meter sends the requests to the object store, counts them, and learns the time there.
type meter struct {
	next        http.RoundTripper
	requested   func(operation string, status int)
	transferred func(sent, received int)
	ahead       atomic.Int64 // nanoseconds by which the clock there is ahead of the one here
}

// RoundTrip implements [http.RoundTripper].
func (m *meter) RoundTrip(r *http.Request) (*http.Response, error) {
	operation := operationOf(r)
	if r.Body != nil && r.Body != http.NoBody {
		counted := *r // a transport must not change the request
		counted.Body = &countedBody{r.Body, func(n int) { m.transferred(n, 0) }}
		r = &counted
	}
	response, err := m.next.RoundTrip(r)
	if err != nil {
		m.requested(operation, 0)
		return response, err
	}
	m.requested(operation, response.StatusCode)
	if at, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		m.ahead.Store(int64(time.Until(at)))
	}
	response.Body = &countedBody{response.Body, func(n int) { m.transferred(0, n) }}
	return response, nil
}

// operationOf returns what a request is about: "get", "head", "put", "delete", "list", or
// "multipart" for the requests around the parts of an upload.
func operationOf(r *http.Request) string {
	query := r.URL.Query()
	switch {
	case query.Has("list-type"):
		return "list"
	case query.Has("uploads"), query.Has("uploadId") && r.Method != http.MethodPut:
		return "multipart"
	case r.Method == http.MethodGet:
		return "get"
	case r.Method == http.MethodHead:
		return "head"
	case r.Method == http.MethodDelete:
		return "delete"
	}
	return "put"
}

// countedBody counts the bytes of a body as they are read.
type countedBody struct {
	io.ReadCloser
	count func(n int)
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.count(n)
	}
	return n, err
}

// bucketNow returns the present time by the clock of the bucket, to a second or two, as it
// was in its last answer. Times of objects are by this clock.
func (s *Store) bucketNow() time.Time {
	return time.Now().Add(time.Duration(s.client.meter.ahead.Load()))
}
