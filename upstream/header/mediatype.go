package header

import (
	"mime"
	"net/http"
)

// MediaType returns the media type of a Content-Type header without parameters,
// or "" if it is missing or invalid.
func MediaType(h http.Header) string {
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return mediaType
}
