package upstream

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// expectWhole asks for a range and checks that the whole blob is sent.
func expectWhole(t *testing.T, u *Registry, d digest.Digest, ask byteRange, want []byte) {
	t.Helper()
	b, err := u.Blob(t.Context(), "a", d, ask.offset, ask.length, "")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) || b.Offset != 0 || b.End != 0 {
		t.Errorf("range %v: got %d bytes, %+v, %v, want the whole blob", ask, len(got), b, err)
	}
}

// TestRegistryBlobRefusedRange checks that a refused range, whatever the status,
// leads to a request for the whole blob, and that no ranges are asked for
// afterwards, until a while has passed.
func TestRegistryBlobRefusedRange(t *testing.T) {
	content := []byte("content")
	ranges := []byteRange{{0, 4}, {3, -1}, {3, 2}}
	for _, status := range []int{400, 401, 403, 404, 405, 406, 410, 412, 413, 416, 500, 501, 502, 503, 504} {
		for _, redirect := range []bool{false, true} {
			if status == 401 && !redirect {
				continue // asks for a login
			}
			var options []registrytest.Option
			if redirect {
				options = append(options, registrytest.WithBlobRedirect())
			}
			r := registrytest.New(t, options...)
			d := r.PutBlob("a", content)
			for _, ask := range ranges {
				if status == 416 && ask.offset > 0 {
					continue // the blob may be shorter
				}
				r.Reset()
				r.Heal()
				r.RefuseRanges(status, 0)
				u, now := client(t, r), time.Now()
				u.now = func() time.Time { return now }
				expectWhole(t, u, d, ask, content)
				expectWhole(t, u, d, ask, content)
				now = now.Add(rangeDistrustPeriod)
				expectWhole(t, u, d, ask, content)
				if got, want := r.Ranges(), []string{ask.String(), "", "", ask.String(), ""}; !slices.Equal(got, want) {
					t.Errorf("status %d: got the ranges %q, want %q", status, got, want)
				}
			}
		}
	}
}

// TestRegistryBlobRangeError checks that a blob that is not sent without a range
// either is an error, and that ranges are still asked for.
func TestRegistryBlobRangeError(t *testing.T) {
	for _, test := range []struct {
		status, gets int
		retryAfter   string
		kind         Kind
	}{
		{403, 2, "", Denied}, {404, 2, "", BlobUnknown}, {500, 2, "", Unavailable}, {503, 2, "", Unavailable},
		{503, 1, "30", Unavailable}, {429, 1, "", RateLimited},
	} {
		r := registrytest.New(t)
		d := r.PutBlob("a", []byte("content"))
		header := http.Header{}
		if test.retryAfter != "" {
			header.Set("Retry-After", test.retryAfter)
		}
		r.Fail(registrytest.Failure{Op: registrytest.OpBlob, Status: test.status, Times: test.gets, Header: header})
		u := client(t, r)
		_, err := u.Blob(t.Context(), "a", d, 0, 4, "")
		wantKind(t, err, test.kind)
		if got := r.Counts().BlobGet; got != test.gets {
			t.Errorf("status %d: got %d requests, want %d", test.status, got, test.gets)
		}
		b, err := u.Blob(t.Context(), "a", d, 0, 4, "")
		if err != nil || b.End != 4 {
			t.Fatalf("after status %d: got %+v, %v, want a range", test.status, b, err)
		}
		_ = b.Close()
	}
}

func TestParseContentRange(t *testing.T) {
	for _, test := range []struct {
		text   string
		want   byteRange
		length int64 // of the body
		size   int64 // 0: an error
		end    int64
	}{
		{"bytes 5-9/10", byteRange{5, -1}, 5, 10, 10},
		{"Bytes 5-9/10", byteRange{5, -1}, -1, 10, 10},
		{"bytes 5-9/10", byteRange{4, -1}, 5, 0, 0},
		{"bytes 5-9/10", byteRange{5, -1}, 4, 0, 0},
		{"bytes 5-8/10", byteRange{5, -1}, 4, 0, 0},
		{"bytes 5-10/10", byteRange{5, -1}, 6, 0, 0},
		{"bytes 5-9/*", byteRange{5, -1}, 5, 0, 0},
		{"bytes */10", byteRange{5, -1}, 5, 0, 0},
		{"bytes 5-4/5", byteRange{5, -1}, 0, 0, 0},
		{"bytes +5-9/10", byteRange{5, -1}, 5, 0, 0},
		{"bytes 5--9/10", byteRange{5, -1}, 5, 0, 0},
		{"bytes 5-9/99999999999999999999", byteRange{5, -1}, 5, 0, 0},
		{"items 5-9/10", byteRange{5, -1}, 5, 0, 0},
		{"bytes=5-9/10", byteRange{5, -1}, 5, 0, 0},
		{"", byteRange{5, -1}, 5, 0, 0},
		{"bytes 5-6/10", byteRange{5, 2}, 2, 10, 7},
		{"bytes 5-6/10", byteRange{5, 2}, -1, 10, 7},
		{"bytes 5-9/10", byteRange{5, 50}, 5, 10, 10},
		{"bytes 5-6/10", byteRange{5, 3}, 2, 10, 7}, // less than was asked for
		{"bytes 5-7/10", byteRange{5, 2}, 3, 0, 0},
		{"bytes 6-7/10", byteRange{5, 3}, 2, 0, 0},
		{"bytes 5-6/10", byteRange{5, 2}, 3, 0, 0},
		{"bytes 5-10/10", byteRange{5, 6}, 6, 0, 0},
		{"bytes 0-4/*", byteRange{0, 5}, 5, 0, 0},
	} {
		size, end, err := parseContentRange(test.text, test.want, test.length)
		if size != test.size || end != test.end || (err == nil) != (test.size > 0) {
			t.Errorf("parseContentRange(%q, %v, %d) = %d, %d, %v, want %d, %d", test.text, test.want, test.length, size, end, err, test.size, test.end)
		}
	}
}
