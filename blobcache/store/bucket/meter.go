package bucket

import (
	"net/http"
	"sync/atomic"
	"time"
)

// meter sends the requests to the object store and learns the time there.
type meter struct {
	next  http.RoundTripper
	ahead atomic.Int64 // nanoseconds by which the clock there is ahead of the one here
}

// RoundTrip implements [http.RoundTripper].
func (m *meter) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := m.next.RoundTrip(r)
	if err != nil {
		return response, err
	}
	if at, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		m.ahead.Store(int64(time.Until(at)))
	}
	return response, nil
}

// bucketNow returns the present time by the clock of the bucket, to a second or two, as it
// was in its last answer. Times of objects are by this clock.
func (s *Store) bucketNow() time.Time {
	return time.Now().Add(time.Duration(s.client.meter.ahead.Load()))
}
