package pullthrough

import (
	"bytes"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// clocked is an upstream in the same synctest bubble as its client, so that a test
// knows exactly how long a request waits. It has one manifest for all tags.
type clocked struct {
	mu       sync.Mutex
	manifest []byte
	status   int           // 0 for 200, noResponse for none
	header   http.Header   // of errors
	delay    time.Duration // of each answer
	noHead   bool          // HEAD is not allowed
	asked    int
	pulls    int // GETs
}

// set changes the upstream; its requests are counted anew.
func (u *clocked) set(change func(*clocked)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change(u)
	u.asked, u.pulls = 0, 0
}

func (u *clocked) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked
}

// RoundTrip implements [http.RoundTripper].
func (u *clocked) RoundTrip(req *http.Request) (*http.Response, error) {
	u.mu.Lock()
	u.asked++
	if req.Method == http.MethodGet {
		u.pulls++
	}
	noHead := u.noHead
	manifest, status, header, delay := u.manifest, u.status, u.header, u.delay
	u.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	resp := &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: http.NoBody, ContentLength: int64(len(manifest)), Request: req, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if noHead && req.Method == http.MethodHead {
		status = http.StatusMethodNotAllowed
	}
	switch {
	case status == noResponse:
		return nil, io.ErrUnexpectedEOF
	case status != 0:
		resp.StatusCode, resp.ContentLength, resp.Header = status, 0, header.Clone()
		return resp, nil
	case req.Method == http.MethodGet:
		resp.Body = io.NopCloser(bytes.NewReader(manifest))
	}
	resp.Header.Set("Content-Type", v1.MediaTypeImageManifest)
	resp.Header.Set("Content-Length", strconv.Itoa(len(manifest)))
	resp.Header.Set("Docker-Content-Digest", digest.FromBytes(manifest).String())
	return resp, nil
}

const noResponse = -1

const never = time.Duration(math.MaxInt64)

func manifestNumber(n string) []byte {
	return []byte(`{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageManifest + `","config":{},"layers":[],"annotations":{"n":"` + n + `"}}`)
}

// newClocked returns a fixture with a clocked upstream, whose tag 1 has been pulled.
func newClocked(t *testing.T) (*fixture, *clocked) {
	t.Helper()
	up := &clocked{manifest: manifestNumber("1")}
	f := newFixtureAt(t, &url.URL{Scheme: "https", Host: "hub.example"}, up)
	f.config.FreshFor, f.config.Patience = time.Minute, 500*time.Millisecond
	f.expectPull("1", Origin{Status: Miss}, manifestNumber("1"), 0)
	up.set(func(*clocked) {})
	t.Cleanup(func() { time.Sleep(2 * metadataLimit) }) // questions in progress end
	return f, up
}

// expectPull pulls the tag 1 with the settings of the fixture, and compares the answer
// and how long it took. The time of the answer is not compared.
func (f *fixture) expectPull(tag string, want Origin, manifest []byte, took time.Duration) {
	f.t.Helper()
	begin := time.Now()
	m, err := f.repository("red", "team/app").ManifestByTag(f.t.Context(), tag, true)
	if err != nil {
		f.t.Fatal(err)
	}
	defer m.Content.Close()
	if got := time.Since(begin); got != took {
		f.t.Errorf("got an answer after %v, want one after %v", got, took)
	}
	if m.Checked = want.Checked; m.Origin != want || string(contentOf(f.t, m)) != string(manifest) {
		f.t.Errorf("got %+v with %s, want %+v with %s", m.Origin, contentOf(f.t, m), want, manifest)
	}
}

// checked returns when a tag was confirmed last.
func (f *fixture) checked(tag string) time.Time {
	f.t.Helper()
	ref, err := f.config.Index.Ref(f.t.Context(), "red/_/hub@1/team/app", tag)
	if err != nil {
		f.t.Fatal(err)
	}
	return ref.Checked
}
