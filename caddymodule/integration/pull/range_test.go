package pull

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestBlobRanges checks that parts of a blob and the conditions of RFC 9110 are
// served from a cold and from a warm cache.
func TestBlobRanges(t *testing.T) {
	const size = 300_000
	for _, row := range []struct {
		name         string
		headers      [][2]string
		status       int
		contentRange string
		from, to     int
	}{
		{"first byte", [][2]string{{"Range", "bytes=0-0"}}, 206, "bytes 0-0/300000", 0, 1},
		{"middle", [][2]string{{"Range", "bytes=1000-1999"}}, 206, "bytes 1000-1999/300000", 1000, 2000},
		{"to the end", [][2]string{{"Range", "bytes=299000-"}}, 206, "bytes 299000-299999/300000", 299000, size},
		{"the last", [][2]string{{"Range", "bytes=-10"}}, 206, "bytes 299990-299999/300000", size - 10, size},
		{"end beyond the size", [][2]string{{"Range", "bytes=299990-999999999"}}, 206, "bytes 299990-299999/300000", size - 10, size},
		{"longer than all", [][2]string{{"Range", "bytes=-999999999"}}, 206, "bytes 0-299999/300000", 0, size},
		{"no range", nil, 200, "", 0, size},
		{"other unit", [][2]string{{"Range", "lines=1-2"}}, 200, "", 0, size},
		{"beyond the end", [][2]string{{"Range", "bytes=300000-"}}, 416, "bytes */300000", 0, 0},
		{"right If-Range", [][2]string{{"Range", "bytes=5-9"}, {"If-Range", "ETAG"}}, 206, "bytes 5-9/300000", 5, 10},
		{"wrong If-Range", [][2]string{{"Range", "bytes=5-9"}, {"If-Range", `"other"`}}, 200, "", 0, size},
		{"date as If-Range", [][2]string{{"Range", "bytes=5-9"}, {"If-Range", "Mon, 02 Jan 2006 15:04:05 GMT"}}, 200, "", 0, size},
		{"known", [][2]string{{"If-None-Match", "ETAG"}}, 304, "", 0, 0},
		{"one of the known", [][2]string{{"If-None-Match", `"a", ETAG`}}, 304, "", 0, 0},
		{"anything known", [][2]string{{"If-None-Match", "*"}}, 304, "", 0, 0},
		{"other known", [][2]string{{"If-None-Match", `"other"`}}, 200, "", 0, size},
		{"other wanted", [][2]string{{"If-Match", `"other"`}}, 412, "", 0, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			up := registrytest.New(t)
			layer := sitetest.Random(2, size)
			d := string(up.PutBlob("library/alpine", layer))
			s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
			path, changes := sitetest.BlobPath("acme", "alpine", d), []sitetest.RequestOption{sitetest.As("alice")}
			for _, h := range row.headers {
				changes = append(changes, sitetest.Header(h[0], strings.ReplaceAll(h[1], "ETAG", `"`+d+`"`)))
			}
			for _, temperature := range []string{"cold", "warm"} {
				a := s.Get(path, changes...)
				if a.StatusCode != row.status || a.Header.Get("Content-Range") != row.contentRange {
					t.Errorf("%s: got %d %q, want %d %q", temperature, a.StatusCode, a.Header.Get("Content-Range"), row.status, row.contentRange)
				}
				if row.status < 300 && string(a.Data) != string(layer[row.from:row.to]) {
					t.Errorf("%s: got %d bytes, want the %d bytes of the range", temperature, len(a.Data), row.to-row.from)
				}
				if row.status != 416 && row.status != 412 {
					a.Has(t, "ETag", `"`+d+`"`).Has(t, "Docker-Content-Digest", d).Has(t, "Cache-Control", "no-transform")
				}
				s.AwaitStored(d) // a request of a part also stores the whole
			}
			if counts := up.Counts(); counts.BlobGet != 1 || counts.BlobHead != 0 {
				t.Errorf("got requests %+v, want one GET of the blob", counts)
			}
		})
	}
}

// TestMultipleRanges checks that several ranges are served in one response.
func TestMultipleRanges(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(3, 10_000)
	d := up.PutBlob("library/alpine", layer)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	for range 2 {
		a := s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice"), sitetest.Header("Range", "bytes=0-9,100-199"))
		a.Expect(t, http.StatusPartialContent, "")
		_, parameters, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		parts := multipart.NewReader(strings.NewReader(string(a.Data)), parameters["boundary"])
		for _, want := range [][]byte{layer[0:10], layer[100:200]} {
			part, err := parts.NextPart()
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(part)
			if err != nil || string(got) != string(want) || part.Header.Get("Content-Type") != "application/octet-stream" {
				t.Errorf("got a part of %d bytes with %v, error %v; want %d bytes of application/octet-stream", len(got), part.Header, err, len(want))
			}
		}
	}
}

// TestConditionalManifest checks that a client that has a manifest gets 304.
func TestConditionalManifest(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	for _, reference := range []string{"3.20", string(image.Manifest)} {
		path := sitetest.ManifestPath("acme", "alpine", reference)
		for etag, status := range map[string]int{fmt.Sprintf("%q", image.Manifest): 304, "*": 304, `"other"`: 200} {
			get := s.Get(path, sitetest.As("alice"), sitetest.Header("If-None-Match", etag)).Expect(t, status, "")
			get.Has(t, "ETag", fmt.Sprintf("%q", image.Manifest)).Has(t, "Docker-Content-Digest", string(image.Manifest))
			sitetest.SameStatus(t, get, s.Head(path, sitetest.As("alice"), sitetest.Header("If-None-Match", etag)))
		}
	}
	// HEAD of a blob is conditional too.
	d := image.Layers[0]
	etag := sitetest.Header("If-None-Match", fmt.Sprintf("%q", d))
	s.Head(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice"), etag).Expect(t, http.StatusNotModified, "").Has(t, "ETag", fmt.Sprintf("%q", d))
}

// TestRangeIsSentDuringStall checks that the available part of a range is sent
// while upstream stalls, also with several ranges in one response.
func TestRangeIsSentDuringStall(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(4, 300_000)
	d := up.PutBlob("library/alpine", layer)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	release := up.StallBlobs(100_000)
	defer release()
	whole := s.Open(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice"))
	defer whole.Body.Close()
	for _, asked := range []string{"bytes=99000-200000", "bytes=98000-98999,99000-200000"} {
		response := s.Open(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice"), sitetest.Header("Range", asked))
		// A stalled answer would block here until the test times out.
		seen, piece := "", make([]byte, 1000)
		for !strings.HasSuffix(seen, string(layer[99_000:99_900])) && len(seen) < 10_000 {
			n, err := response.Body.Read(piece[:1])
			if seen += string(piece[:n]); err != nil {
				t.Fatalf("%s: got error %v after %d bytes, want the available part", asked, err, len(seen))
			}
		}
		_ = response.Body.Close()
	}
}
