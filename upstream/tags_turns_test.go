package upstream

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestRegistryTagsDelayNoManifests checks that lists that are read slowly do not delay
// manifests, and that a huge list is parsed before the next one is read.
func TestRegistryTagsDelayNoManifests(t *testing.T) {
	r := registrytest.New(t)
	d := r.PutManifest("a", v1.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[],"pad":"`+strings.Repeat("x", 2*smallRead)+`"}`))
	u := client(t, r)
	for range maxListReads {
		u.listReads <- struct{}{}
	}
	if _, err := u.Manifest(t.Context(), "a", d.String()); err != nil {
		t.Errorf("got %v while lists are being read, want the manifest", err)
	}
	<-u.listReads
	for range maxLargeReads {
		u.largeReads <- struct{}{}
	}
	content := `{"tags":["` + strings.Repeat("x", MaxManifest) + `"]}`
	resp := &response{&http.Response{StatusCode: http.StatusOK, ContentLength: -1, Body: io.NopCloser(strings.NewReader(content))}, nil}
	_, err := u.readList(t.Context(), new(call), resp, func(read []byte) ([]byte, error) {
		if len(read) != len(content) || len(u.hugeReads) != 1 {
			t.Errorf("got %d bytes in %d turns, want %d in one", len(read), len(u.hugeReads), len(content))
		}
		return read, nil
	})
	if err != nil || len(u.hugeReads) != 0 {
		t.Errorf("got %v and %d turns, want none", err, len(u.hugeReads))
	}
}

// TestRegistryTagsLarge checks the limit of a list, and that only one that is larger
// than a manifest is read at a time.
func TestRegistryTagsLarge(t *testing.T) {
	size, announced := MaxManifest, int64(-1)
	answer := func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, ContentLength: announced, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(tagList(size)))}, nil
	}
	u := clientAt(t, "http://h", roundTripper(answer))
	for _, size = range []int{MaxManifest, MaxManifest + 2} {
		page, err := u.Tags(t.Context(), "a", nil)
		if err != nil || len(page.Content) != size-len(`{"tags":}`) || cap(page.Content) > size+maxSlack {
			t.Errorf("%d bytes: got %d, %v", size, len(page.Content), err)
		}
	}
	size, announced = 1000, maxTagList
	if _, err := u.Tags(t.Context(), "a", nil); err != nil {
		t.Errorf("got %v for the largest list that may be announced, want none", err)
	}
	announced++
	_, err := u.Tags(t.Context(), "a", nil)
	wantKind(t, err, Invalid)
	size, announced = MaxManifest+2, -1
	tooLarge, _ := answer(nil)
	turns := reader{registry: u, list: true}
	_, err = u.readInTurn(t.Context(), new(call), &response{tooLarge, nil}, MaxManifest+1, &turns)
	turns.release()
	wantKind(t, err, Invalid)
	u.hugeReads <- struct{}{}
	u.timeout = 200 * time.Millisecond
	_, err = u.Tags(t.Context(), "a", nil)
	wantKind(t, err, Timeout)
	size, u.timeout = MaxManifest, metadataTimeout
	_, err = u.Tags(t.Context(), "a", nil)
	if n := len(u.largeReads) + len(u.listReads); err != nil || n != 0 {
		t.Errorf("got %v for a smaller list, and %d reads that have not ended, want none", err, n)
	}
}

// tagList returns a list of a size in bytes. It consists mostly of spaces, which take the
// race detector less time than names.
func tagList(size int) string {
	const begin, end = `{"tags":["x"`, `]}`
	name := `,"x"` + strings.Repeat(" ", 64<<10)
	spaces := size - len(begin) - len(end)
	return begin + strings.Repeat(name, spaces/len(name)) + strings.Repeat(" ", spaces%len(name)) + end
}
