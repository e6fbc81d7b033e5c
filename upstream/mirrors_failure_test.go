package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func TestMirrorsWithoutAnswer(t *testing.T) {
	p := newPair(t)
	p.a.Fail(registrytest.Failure{Status: http.StatusBadGateway})
	p.b.Fail(registrytest.Failure{Status: http.StatusTooManyRequests})
	err := p.pull(t)
	wantKind(t, err, Unavailable)
	want := fmt.Sprintf("upstream test.example: app: manifest 1: server error (HTTP 502) (at %s; at %s: manifest 1: rate limit exceeded (HTTP 429))", p.a.Host(), p.b.Host())
	if err.Error() != want {
		t.Errorf("got error %q, want %q", err, want)
	}
	p.a.Reset()
	p.b.Reset()
	wantKind(t, p.pull(t), Unavailable)
	if a, b := p.a.Counts().ManifestGet, p.b.Counts().ManifestGet; a != 1 || b != 0 {
		t.Errorf("got %d and %d requests while both addresses pause, want one to the first", a, b)
	}
	p.b.Heal()
	p.expectAsked(t, "after the recovery of the address whose pause ends first", 0, 1)
	p.expectAsked(t, "after its answer", 0, 1)
}

// TestMirrorsDoNotBelieveAnIncompleteCopy checks that a later address that does not
// have an image does not hide that the first one could not be asked.
func TestMirrorsDoNotBelieveAnIncompleteCopy(t *testing.T) {
	p := newPair(t)
	p.b.DeleteRepository("app")
	p.a.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"30"}}})
	for range 2 {
		err := p.pull(t)
		if wantKind(t, err, RateLimited); !strings.Contains(err.Error(), "NAME_UNKNOWN") {
			t.Errorf("got error %v, want the answer of the second address in its text", err)
		}
	}
	if p.registries[1].pause.State().Cause != nil {
		t.Error("got a pause of an address that answered 404, want none")
	}
	p.pass(30 * time.Second)
	p.a.Heal()
	p.expectAsked(t, "after the outage", 1, 0)
}

// TestMirrorsShareTheTime checks that all addresses together take no longer than one.
func TestMirrorsShareTheTime(t *testing.T) {
	for name, question := range questions {
		if name == "Blob" {
			continue // its limit is not a deadline
		}
		p := newPair(t)
		var limits []time.Duration
		for _, r := range p.registries {
			r.timeout = time.Hour
			r.transport = roundTripper(func(req *http.Request) (*http.Response, error) {
				deadline, _ := req.Context().Deadline()
				limits = append(limits, time.Until(deadline).Round(5*time.Second))
				return nil, io.ErrUnexpectedEOF
			})
		}
		wantKind(t, question(t.Context(), p), Unavailable)
		if fmt.Sprint(limits) != "[15s 30s]" {
			t.Errorf("%s: got limits %v, want half of 30s, and the rest", name, limits)
		}
	}
}

func TestMirrorsLimitTheTimeForABlob(t *testing.T) {
	p := newPair(t)
	p.registries[0].transport = roundTripper(func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	})
	a := &attempt{registry: p.registries[0], limit: 10 * time.Millisecond}
	_, err := a.blob(t.Context(), "app", p.layer, 0, -1)
	if wantKind(t, err, Timeout); !strings.Contains(err.Error(), "no response within 10ms") {
		t.Errorf("got error %v, want the limit in it", err)
	}
}

func TestMirrorsResumeABlobElsewhere(t *testing.T) {
	p := newPair(t)
	content := p.a.RawBlob("app", p.layer)
	p.a.CutBlobs(4000, 1)
	b, err := p.Blob(t.Context(), "app", p.layer, 0, -1, "")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	wantKind(t, err, Unavailable)
	var ifRange []string
	p.b.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
		ifRange = append(ifRange, req.Header.Get("If-Range"))
		return false
	})
	rest, err := p.Blob(t.Context(), "app", p.layer, int64(len(got)), -1, `"other"`)
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Close()
	more, err := io.ReadAll(rest)
	if err != nil || !bytes.Equal(append(got, more...), content) {
		t.Errorf("got %d and %d bytes, error %v; want the %d bytes of the blob", len(got), len(more), err, len(content))
	}
	if fmt.Sprintf("%q", ifRange) != `[""]` || b.ETag != "" || rest.ETag != "" {
		t.Errorf("got If-Range %q and entity tags %q and %q, want none", ifRange, b.ETag, rest.ETag)
	}
	p.pass(time.Second)
	p.expectAsked(t, "after the pause", 1, 0)
}

// TestMirrorsStall checks that an address pauses if a caller gives up a transfer
// because it has stalled, and not if the caller does not want it any more.
func TestMirrorsStall(t *testing.T) {
	for cause, pauses := range map[error]bool{
		fmt.Errorf("nothing was sent: %w", context.DeadlineExceeded): true,
		context.Canceled: false,
	} {
		p := newPair(t)
		p.a.StallBlobs(4000)
		ctx, cancel := context.WithCancelCause(t.Context())
		b, err := p.Blob(ctx, "app", p.layer, 0, -1, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, b, 4000); err != nil {
			t.Fatal(err)
		}
		cancel(cause)
		if n, err := io.Copy(io.Discard, b); err == nil {
			t.Errorf("got %d bytes after the end of the context, want an error", n)
		}
		_ = b.Close()
		p.a.Heal()
		if got := p.registries[0].pause.State().Cause != nil; got != pauses {
			t.Errorf("%v: got a pause: %t, want %t", cause, got, pauses)
		}
	}
}

// TestMirrorsPageAtTheSameAddress checks that a cursor is sent to the address that
// issued it only.
func TestMirrorsPageAtTheSameAddress(t *testing.T) {
	p := newPair(t)
	var queries []string
	p.b.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		queries = append(queries, req.URL.RawQuery)
		w.Header().Set("Link", fmt.Sprintf(`</v2/app/tags/list?n=1&next_page=b%d>; rel="next"`, len(queries)))
		return false
	})
	p.a.Fail(registrytest.Failure{Status: http.StatusBadGateway, Times: 1})
	page, err := p.Tags(t.Context(), "app", url.Values{"n": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	p.pass(time.Minute)
	p.a.Reset()
	if page, err = p.Tags(t.Context(), "app", page.Next); err != nil {
		t.Fatal(err)
	}
	if got := p.a.Counts(); got != (registrytest.Counts{}) || fmt.Sprint(queries) != "[n=1 n=1&next_page=b1]" {
		t.Errorf("got requests %+v to the first address and %q to the second, want both pages from the second", got, queries)
	}
	p.a.Fail(registrytest.Failure{Status: http.StatusBadGateway, Times: 1})
	_, err = p.Tags(t.Context(), "app", url.Values{"next_page": {"of a single address"}})
	if wantKind(t, err, Unavailable); len(queries) != 2 {
		t.Errorf("got queries %q to the second address, want none for a page of the first one", queries)
	}
	p.a.Reset()
	p.b.Close()
	_, err = p.Tags(t.Context(), "app", page.Next)
	wantKind(t, err, Unavailable)
	page.Next.Set(AddressParameter, "unknown")
	_, err = p.Tags(t.Context(), "app", page.Next)
	wantKind(t, err, Invalid)
	if got := p.a.Counts(); got != (registrytest.Counts{}) {
		t.Errorf("got requests %+v to the first address, want none", got)
	}
}

func TestMirrorsWithOneAddress(t *testing.T) {
	r := registrytest.New(t)
	r.PutImage("app", "1")
	m := NewMirrors(client(t, r))
	for range 2 {
		r.Fail(registrytest.Failure{Status: http.StatusBadGateway, Times: 1})
		_, err := m.Manifest(t.Context(), "app", "1")
		wantKind(t, err, Unavailable)
		if _, err := m.Manifest(t.Context(), "app", "1"); err != nil {
			t.Errorf("got error %v right after a failure, want an answer", err)
		}
	}
}
