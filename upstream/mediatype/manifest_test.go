package mediatype

import (
	"strings"
	"testing"
)

// TestOfManifestLong checks that the media type of a manifest, which becomes a header
// and part of a record, has a limit.
func TestOfManifestLong(t *testing.T) {
	for n, ok := range map[int]bool{200: true, 300: false, 1 << 20: false} {
		long := "application/vnd." + strings.Repeat("a", n) + "+json"
		if got, err := OfManifest("", []byte(`{"schemaVersion":2,"mediaType":"`+long+`"}`)); (err == nil) != ok {
			t.Errorf("%d bytes in the content: got %d, %v", n, len(got), err)
		}
		if got, err := OfManifest(long, []byte(`{"schemaVersion":2}`)); (err == nil) != ok {
			t.Errorf("%d bytes in the header: got %d, %v", n, len(got), err)
		}
	}
}
