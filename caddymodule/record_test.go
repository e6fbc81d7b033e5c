package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// records collects the records of a site's requests.
type records struct {
	mu  sync.Mutex
	all []string
	raw []record.Request
}

// collectRecords collects the records of the requests from now on. It must be called
// before the first request.
func collectRecords(t testing.TB) *records {
	t.Helper()
	c := new(records)
	h := runningHandler(t)
	h.consumers = append(h.consumers, func(r *record.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		seen := record.Request{
			Kind: r.Kind, Result: r.Result, Head: r.Head, Group: r.Group, Image: r.Image, Upstream: r.Upstream, Repository: r.Repository, Tag: r.Tag,
			Digest: r.Digest, Account: r.Account, Directory: r.Directory, AccessToken: r.AccessToken, Anonymous: r.Anonymous, Rule: r.Rule, Denial: r.Denial,
			Source: r.Source, Start: r.Start, FirstByte: r.FirstByte, Duration: r.Duration, Status: r.Status, Bytes: r.Bytes,
		}
		c.raw = append(c.raw, seen)
		c.all = append(c.all, fmt.Sprintf("%s %s %d %s %d", r.Kind, r.Result, r.Status, r.Source, r.Bytes))
	})
	return c
}

// take returns the records since the last call. A client may have the response
// before the record is complete.
func (c *records) take(t testing.TB, n int) (lines []string, raw []record.Request) {
	t.Helper()
	sitetest.Eventually(t, fmt.Sprint(n, " requests are recorded"), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.all) >= n
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	lines, raw = c.all, c.raw
	c.all, c.raw = nil, nil
	return lines, raw
}

// TestRecord checks the record of each kind of request and each result.
func TestRecord(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 300_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	broken := up.PutBlob("library/alpine", sitetest.Random(2, 300_000))
	manifest := len(up.RawManifest("library/alpine", image.Manifest))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public), sitetest.Hub(up),
		"group limited {\n members alice\n deny docker.io/**\n}")
	seen := collectRecords(t)
	token := s.Token("alice")
	seen.take(t, 1)
	tag, blob := sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.BlobPath("acme", "alpine", image.Layers[0])
	down := func() { up.Fail(registrytest.Failure{Status: http.StatusServiceUnavailable, Times: 100}) }
	limited := func() { up.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Times: 100}) }
	release := func() {}
	corrupt := func() {
		up.CorruptBlobs(10)
		release = up.StallBlobs(100_000) // or the mismatch may be known before the header is sent
	}
	for _, step := range []struct {
		before func()
		path   string
		with   []sitetest.RequestOption
		want   string // without the bytes if they end in a space
	}{
		{nil, "/v2/", nil, "ping unauthorized 401 none "},
		{nil, "/v2/", []sitetest.RequestOption{sitetest.Bearer(token)}, "ping ok 200 none 2"},
		{nil, sitetest.Auth, []sitetest.RequestOption{sitetest.As("alice")}, "token ok 200 none "},
		{nil, sitetest.Auth, []sitetest.RequestOption{sitetest.Basic("alice", "wrong")}, "token unauthorized 401 none "},
		{nil, tag, []sitetest.RequestOption{sitetest.Bearer(token)}, fmt.Sprint("manifest miss 200 upstream ", manifest)},
		{nil, tag, []sitetest.RequestOption{sitetest.Bearer(token)}, fmt.Sprint("manifest hit 200 cache ", manifest)},
		{nil, tag, []sitetest.RequestOption{sitetest.Bearer(token), sitetest.Method(http.MethodHead)}, "manifest hit 200 cache 0"},
		{nil, tag, []sitetest.RequestOption{sitetest.Bearer(token), sitetest.Header("If-None-Match", `"`+image.Manifest.String()+`"`)}, "manifest hit 304 none 0"},
		{nil, blob, []sitetest.RequestOption{sitetest.Bearer(token)}, "blob miss 200 upstream 300000"},
		{func() { s.AwaitStored(string(image.Layers[0])) }, blob, []sitetest.RequestOption{sitetest.Bearer(token)}, "blob hit 200 cache 300000"},
		{nil, blob, []sitetest.RequestOption{sitetest.Bearer(token), sitetest.Header("Range", "bytes=10-19")}, "blob hit 206 cache 10"},
		{nil, "/v2/acme/dependency_proxy/containers/alpine/tags/list", []sitetest.RequestOption{sitetest.Bearer(token)}, "tags miss 200 none "},
		{nil, "/v2/acme/dependency_proxy/containers/alpine/referrers/" + image.Manifest.String(), []sitetest.RequestOption{sitetest.Bearer(token)}, "referrers miss 200 none "},
		{nil, sitetest.ManifestPath("acme", "alpine", "no-such"), []sitetest.RequestOption{sitetest.Bearer(token)}, "manifest absent 404 none "},
		{nil, sitetest.ManifestPath("acme", "alpine", ".bad"), []sitetest.RequestOption{sitetest.Bearer(token)}, "manifest error 400 none "},
		{nil, tag, []sitetest.RequestOption{sitetest.Bearer(token), sitetest.Method(http.MethodPut)}, "manifest error 405 none "},
		{nil, tag, []sitetest.RequestOption{sitetest.As("bob")}, "manifest denied 403 none "},
		{nil, sitetest.ManifestPath("limited", "alpine", "3.20"), []sitetest.RequestOption{sitetest.Bearer(token)}, "manifest denied 403 none "},
		{nil, "/acme/dependency_proxy", []sitetest.RequestOption{sitetest.As("bob")}, "other denied 403 none "},
		{corrupt, sitetest.BlobPath("acme", "alpine", broken), []sitetest.RequestOption{sitetest.Bearer(token)}, "blob error 200 upstream "},
		{down, sitetest.ManifestPath("acme", "alpine", "new"), []sitetest.RequestOption{sitetest.Bearer(token)}, "manifest unavailable 503 none "},
		{limited, sitetest.ManifestPath("acme", "alpine", "newer"), []sitetest.RequestOption{sitetest.Bearer(token)}, "manifest rate_limited 429 none "},
		{limited, sitetest.BlobPath("acme", "alpine", image.Config), []sitetest.RequestOption{sitetest.Bearer(token)}, "blob rate_limited 503 none "},
	} {
		up.Heal()
		if step.before != nil {
			step.before()
		}
		response := s.Open(step.path, step.with...)
		release()
		a := s.Finish(response)
		lines, raw := seen.take(t, 1)
		got := lines[0]
		if len(lines) != 1 || got != step.want && (step.want[len(step.want)-1] != ' ' || got != step.want+fmt.Sprint(raw[0].Bytes)) {
			t.Errorf("%s: got records %q, want %q", step.path, lines, step.want)
		}
		if r := raw[0]; r.Duration < r.FirstByte || r.FirstByte <= 0 || r.Start.IsZero() || r.Bytes != int64(len(a.Data)) && a.Err == nil {
			t.Errorf("%s: got first byte %v, duration %v, start %v and %d bytes; the body has %d", step.path, r.FirstByte, r.Duration, r.Start, r.Bytes, len(a.Data))
		}
	}
}

// TestRecordNames checks the names in the records of a pull and of denials.
func TestRecordNames(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 300))
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public), sitetest.Hub(up),
		"group acme/limited {\n members alice\n deny docker.io/**\n}")
	secret, id := s.CreateToken("--group", "acme", "--name", "ci")
	seen := collectRecords(t)
	anonymous := sitetest.Bearer(s.Get(sitetest.Auth).Tokens().Token)
	seen.take(t, 1)
	for _, step := range []struct {
		group string
		with  sitetest.RequestOption
		want  record.Request
	}{
		{"acme", sitetest.As("alice"), record.Request{Account: "alice", Directory: "static", Rule: "member", Upstream: "docker.io", Repository: "library/alpine", Digest: image.Manifest}},
		{"acme", sitetest.Basic("ci", secret), record.Request{Account: "token:" + id, Directory: "tokens", AccessToken: id, Rule: "member", Upstream: "docker.io", Repository: "library/alpine", Digest: image.Manifest}},
		{"open", anonymous, record.Request{Anonymous: true, Rule: "public group", Upstream: "docker.io", Repository: "library/alpine", Digest: image.Manifest}},
		{"acme", sitetest.As("bob"), record.Request{Account: "bob", Directory: "static", Rule: "not a member", Denial: "not a member"}},
		{"acme/limited", sitetest.As("alice"), record.Request{Account: "alice", Directory: "static", Upstream: "docker.io", Repository: "library/alpine",
			Rule: "group acme/limited: deny docker.io/**", Denial: "limits of images"}},
	} {
		s.Get(sitetest.ManifestPath(step.group, "alpine", "3.20"), step.with)
		_, raw := seen.take(t, 1)
		got, want := raw[len(raw)-1], step.want
		want.Group, want.Image, want.Tag, want.Kind = step.group, "alpine", "3.20", record.Manifest
		want.Result, want.Source, want.Status, want.Bytes = got.Result, got.Source, got.Status, got.Bytes
		want.Start, want.FirstByte, want.Duration = got.Start, got.FirstByte, got.Duration
		if got != want {
			t.Errorf("group %s: got the record\n%+v, want\n%+v", step.group, got, want)
		}
	}
}

// TestRecordOfLeftClient checks that a response is recorded which the client does not
// wait for, with the bytes that were sent.
func TestRecordOfLeftClient(t *testing.T) {
	up := registrytest.New(t)
	d := up.PutBlob("library/alpine", sitetest.Random(1, 400_000))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	seen := collectRecords(t)
	token := s.Token("alice")
	seen.take(t, 1)
	release := up.StallBlobs(200_000)
	defer release()
	pull := s.Open(sitetest.BlobPath("acme", "alpine", d), sitetest.Bearer(token))
	if _, err := io.ReadFull(pull.Body, make([]byte, 150_000)); err != nil {
		t.Fatal(err)
	}
	_ = pull.Body.Close()
	lines, raw := seen.take(t, 1)
	if r := raw[0]; r.Kind != record.Blob || r.Result != record.Canceled || r.Status != http.StatusOK || r.Bytes < 150_000 || r.Bytes > 200_000 {
		t.Errorf("got the record %q, want a canceled blob with status 200 and 150,000 to 200,000 bytes", lines)
	}
}

// fileWriter is a response writer that accepts files, like the connections of
// net/http, and records whether it was given one.
type fileWriter struct {
	*httptest.ResponseRecorder
	files int
}

// ReadFrom implements [io.ReaderFrom].
func (w *fileWriter) ReadFrom(src io.Reader) (int64, error) {
	if _, ok := src.(syscall.Conn); ok {
		w.files++
	}
	return io.Copy(w.ResponseRecorder, src)
}

// TestRecordKeepsSendfile checks that a stored blob reaches the connection as a file,
// which it can send by sendfile(2), and that its bytes are counted.
func TestRecordKeepsSendfile(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 300_000)
	d := up.PutBlob("library/alpine", layer)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	seen := collectRecords(t)
	s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer)
	seen.take(t, 1)
	s.AwaitStored(string(d))
	w := &fileWriter{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodGet, s.URL+sitetest.BlobPath("acme", "alpine", d), nil)
	sitetest.As("alice")(r)
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
	if err := runningHandler(t).ServeHTTP(w, r, nil); err != nil {
		t.Fatal(err)
	}
	lines, _ := seen.take(t, 1)
	if w.files != 1 || w.Body.Len() != len(layer) || lines[0] != "blob hit 200 cache 300000" {
		t.Errorf("got %d files, %d bytes and the record %q; want one file, %d bytes and a hit", w.files, w.Body.Len(), lines, len(layer))
	}
}
