package upstream

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
)

// rangeDistrustPeriod is how long a registry is not asked for ranges after it has
// refused one of a blob that it sends as a whole. It is short, since an overloaded
// registry may refuse a range by chance, and large blobs are downloaded over one
// connection meanwhile.
const rangeDistrustPeriod = 10 * time.Minute

// rangeHistory records whether a registry, or the storage to which it redirects,
// refuses ranges. Its zero value is ready for use.
type rangeHistory struct {
	mu        sync.Mutex
	refusedAt time.Time
}

// distrusts reports whether ranges were refused within rangeDistrustPeriod.
func (h *rangeHistory) distrusts(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Sub(h.refusedAt) < rangeDistrustPeriod
}

// recordRefusal records that a blob was sent only when it was asked for without a
// range.
func (h *rangeHistory) recordRefusal(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refusedAt = now
}

// mayBeForRange reports whether an error response to a request for a range may be
// about the range, so that a request for the whole blob may succeed. Servers that
// do not know Range refuse it with various statuses. A limit or a missing login
// applies to both requests, and so does an overload that has a Retry-After.
func mayBeForRange(resp *response) bool {
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		return false
	case http.StatusUnauthorized:
		return resp.foreign
	case http.StatusServiceUnavailable:
		return resp.Header.Get("Retry-After") == ""
	}
	return true
}

// byteRange is a range of a blob: length bytes from offset on, or all that follows
// offset if length is -1.
type byteRange struct{ offset, length int64 }

var wholeBlob = byteRange{0, -1}

// String returns the value of the Range header.
func (b byteRange) String() string {
	text := "bytes=" + strconv.FormatInt(b.offset, 10) + "-"
	if b.length > 0 {
		text += strconv.FormatInt(b.offset+b.length-1, 10)
	}
	return text
}

// withRange returns a copy of the call that asks for a range of the content with
// the given entity tag, or the call itself for the whole blob.
func (c *call) withRange(want byteRange, etag string) *call {
	if want == wholeBlob {
		return c
	}
	ranged := c.withMethod(http.MethodGet)
	ranged.boundedRange = want.length > 0
	ranged.header = c.header.Clone()
	ranged.header.Set("Range", want.String())
	if isStrongETag(etag) {
		ranged.header.Set("If-Range", etag)
	}
	return ranged
}

// isStrongETag reports whether an entity tag may be sent in If-Range (RFC 9110,
// section 13.1.5): it is quoted and not weak.
func isStrongETag(etag string) bool {
	return len(etag) > 2 && etag[0] == '"' && strings.IndexByte(etag[1:], '"') == len(etag)-2 && header.IsVisible(etag)
}

var errContentRange = errors.New("invalid Content-Range: not the requested range")

// parseContentRange parses "bytes FIRST-LAST/SIZE" (RFC 9110, section 14.4) and
// returns SIZE and LAST+1. The range must start at the requested offset and fit
// the length of the body, which is -1 if unknown. Only a request with an end may
// be answered by a shorter range.
func parseContentRange(value string, want byteRange, length int64) (size, end int64, err error) {
	unit, rest, _ := strings.Cut(value, " ")
	interval, sizeText, _ := strings.Cut(rest, "/")
	firstText, lastText, _ := strings.Cut(interval, "-")
	if !strings.EqualFold(unit, "bytes") {
		return 0, 0, errContentRange
	}
	var numbers [3]int64
	for i, text := range []string{firstText, lastText, sizeText} {
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			return 0, 0, errContentRange
		}
		numbers[i] = int64(n)
	}
	first, last, size := numbers[0], numbers[1], numbers[2]
	if first != want.offset || last < first || last >= size || length >= 0 && length != last-first+1 {
		return 0, 0, errContentRange
	}
	if want.length < 0 && last != size-1 || want.length > 0 && last-first >= want.length {
		return 0, 0, errContentRange
	}
	return size, last + 1, nil
}
