package upstream

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
)

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
	return len(etag) > 2 && etag[0] == '"' && strings.IndexByte(etag[1:], '"') == len(etag)-2 && isPrintable(etag)
}

var errContentRange = errors.New("invalid Content-Range: not the requested range")

// parseContentRange parses "bytes FIRST-LAST/SIZE" (RFC 9110, section 14.4) and
// returns SIZE and LAST+1. The range must start at the requested offset and fit
// the length of the body, which is -1 if unknown. Only a request with an end may
// be answered by a shorter range.
func parseContentRange(header string, want byteRange, length int64) (size, end int64, err error) {
	unit, rest, _ := strings.Cut(header, " ")
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
