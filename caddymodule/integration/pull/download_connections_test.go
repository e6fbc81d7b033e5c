package pull

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestLargeBlobIsDownloadedInRanges checks that a large blob is requested in
// ranges, each once, even if upstream breaks off, and as a whole with one
// connection or without ranges.
func TestLargeBlobIsDownloadedInRanges(t *testing.T) {
	content, d := sitetest.LargeLayer()
	buffer := make([]byte, 64<<10)
	for _, row := range []struct {
		name   string
		lines  []string
		fault  func(up *registrytest.Registry)
		ranges []string // requested ranges, "*" for any; nil if they vary
		once   bool     // each byte is sent once
	}{
		{"four", nil, func(*registrytest.Registry) {}, []string{"bytes=0-33554431", "bytes=33554432-37748735"}, true},
		{"one", []string{"connections 1"}, func(*registrytest.Registry) {}, []string{""}, true},
		{"broken off", nil, func(up *registrytest.Registry) { up.CutBlobs(1_000_000, 1) }, nil, true},
		{"ignored", nil, func(up *registrytest.Registry) { up.FaultRanges(registrytest.RangesIgnored, 0) }, []string{"bytes=0-33554431"}, true},
		{"ignored later", nil, func(up *registrytest.Registry) { up.FaultRanges(registrytest.RangesIgnored, 1) }, []string{"*", "*"}, false},
		{"another blob later", nil, func(up *registrytest.Registry) { up.FaultRanges(registrytest.RangesRenamed, 1) }, []string{"*", "*"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			up := registrytest.New(t, registrytest.WithToken("", ""), registrytest.WithBlobRedirect())
			up.PutBlob("library/alpine", content)
			s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, row.lines...))
			row.fault(up)
			for range 2 { // the second time from the cache
				response, got := s.Open(sitetest.BlobPath("acme", "alpine", string(d)), sitetest.As("alice")), digest.Canonical.Digester()
				n, err := io.CopyBuffer(got.Hash(), response.Body, buffer)
				if response.StatusCode != http.StatusOK || err != nil || got.Digest() != d {
					t.Fatalf("got %d with %d bytes, error %v; want 200 with the blob of %d bytes", response.StatusCode, n, err, sitetest.LargeSize)
				}
			}
			counts, ranges := up.Counts(), up.Ranges()
			if row.once && counts.BlobBytes != sitetest.LargeSize || counts.BlobBytes < sitetest.LargeSize {
				t.Errorf("got %d bytes from upstream for the ranges %q, want %d, or more if repeated", counts.BlobBytes, ranges, sitetest.LargeSize)
			}
			if row.ranges != nil && len(ranges) != len(row.ranges) {
				t.Fatalf("got requests of the ranges %q, want %q", ranges, row.ranges)
			}
			for i, want := range row.ranges {
				if want != "*" && ranges[i] != want {
					t.Errorf("got requests of the ranges %q, want %q", ranges, row.ranges)
				}
			}
		})
	}
}

// TestMismatchedRangeBreaksTransfer checks that a range that does not fit the
// others breaks the transfer, and that the blob is requested as a whole the
// next time.
func TestMismatchedRangeBreaksTransfer(t *testing.T) {
	content, d := sitetest.LargeLayer()
	up := registrytest.New(t)
	up.PutBlob("library/alpine", content)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	up.FaultRanges(registrytest.RangesShifted, 1)
	if a := s.Get(sitetest.BlobPath("acme", "alpine", string(d)), sitetest.As("alice")); a.Err == nil {
		t.Errorf("got %d bytes without an error, want a broken transfer", len(a.Data))
	}
	if a := s.Get(sitetest.BlobPath("acme", "alpine", string(d)), sitetest.As("alice")); a.Err != nil || digest.FromBytes(a.Data) != d {
		t.Errorf("got %d bytes, error %v; want the blob of %d bytes", len(a.Data), a.Err, sitetest.LargeSize)
	}
}

// TestFinishAbandoned checks that a download continues after its last client
// has left, unless the configuration says otherwise.
func TestFinishAbandoned(t *testing.T) {
	up := registrytest.New(t)
	content, d := sitetest.LargeLayer()
	up.PutBlob("library/alpine", content)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	release := up.StallBlobs(100_000)
	response := s.Open(sitetest.BlobPath("acme", "alpine", string(d)), sitetest.As("alice"))
	_ = response.Body.Close()
	sitetest.Eventually(t, "the fetch has no reader", func() bool {
		fills := s.Fills()
		return len(fills) == 1 && fills[0].Readers == 0 && fills[0].Size == sitetest.LargeSize
	})
	release()
	s.AwaitStored(string(d))
	if logs := s.Logs(); !strings.Contains(logs, "the last reader of a fetch under way has left") || !strings.Contains(logs, `"goes_on":true`) {
		t.Error("the log lacks the download that goes on")
	}
	for _, test := range []struct {
		line string
		stop bool
	}{{"", false}, {"finish_abandoned on", false}, {"finish_abandoned off", true}} {
		var f storage.Filesystem
		d := caddyfile.NewTestDispenser("filesystem {\n" + test.line + "\n}")
		if err := f.UnmarshalCaddyfile(d); err != nil || f.Limits().StopAbandoned != test.stop {
			t.Errorf("%q: got %+v, error %v; want StopAbandoned %v", test.line, f.Limits(), err, test.stop)
		}
	}
}
