package header

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter limits [RetryAfter], so that an absurd date does not disable an
// upstream for days.
const MaxRetryAfter = time.Hour

// RetryAfter returns the time that Retry-After demands (RFC 9110, section 10.2.3),
// which holds seconds or a date. It returns 0 if the field is missing or invalid, and
// at most [MaxRetryAfter].
func RetryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return MaxRetryAfter // out of range
		}
		return min(time.Duration(seconds)*time.Second, MaxRetryAfter)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, min(at.Sub(now), MaxRetryAfter))
}
