package header

import (
	"net/http"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                                0,
		"0":                               0,
		"17":                              17 * time.Second,
		" 17 ":                            17 * time.Second,
		"86400":                           MaxRetryAfter,
		"99999999999999999999999999":      MaxRetryAfter,
		"-5":                              0,
		"1.5":                             0,
		"soon":                            0,
		"Fri, 02 Jan 2026 03:05:05 GMT":   time.Minute,
		"Fri, 02 Jan 2026 03:00:00 GMT":   0,
		"Sat, 02 Jan 2027 03:00:00 GMT":   MaxRetryAfter,
		"Friday, 02-Jan-26 03:05:05 GMT":  time.Minute,
		"Fri, 02 Jan 2026 03:05:05 +0100": 0, // not an HTTP date
	} {
		if got := RetryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("Retry-After %q: got %v, want %v", value, got, want)
		}
	}
}
