package caddymodule

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
)

// closeConnection closes the connection instead of answering.
func closeConnection(w http.ResponseWriter, _ *http.Request) bool {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
	return true
}

// neverAnswer does not answer until the client gives up.
func neverAnswer(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

// outages are faults of upstream and the answers to clients where no stale
// content is available.
var outages = map[string]struct {
	fail           registrytest.Failure
	hook           func(http.ResponseWriter, *http.Request) bool
	manifest, blob int
	code, wait     string // of manifests
	blobCode       string
	says           string // part of the message, besides the upstream
	reason         string // of stale answers; "unreachable" if it is empty
}{
	"rate limit": {fail: registrytest.Failure{Status: 429, Header: http.Header{"Retry-After": {"7"}}},
		manifest: 429, blob: 503, code: "TOOMANYREQUESTS", wait: "7", blobCode: "UNAVAILABLE", reason: "rate-limited"},
	"rate limit for ever": {fail: registrytest.Failure{Status: 429, Header: http.Header{"Retry-After": {"999999999"}}},
		manifest: 429, blob: 503, code: "TOOMANYREQUESTS", wait: "600", blobCode: "UNAVAILABLE", reason: "rate-limited"},
	"rate limit without a time": {fail: registrytest.Failure{Status: 429},
		manifest: 429, blob: 503, code: "TOOMANYREQUESTS", wait: "60", blobCode: "UNAVAILABLE", reason: "rate-limited"},
	"pull limit": {fail: registrytest.Failure{Status: 429, Header: http.Header{"Ratelimit-Limit": {"100;w=21600"}, "Ratelimit-Remaining": {"0;w=21600"}, "Retry-After": {"7"}}, Body: `{"errors":[{"code":"TOOMANYREQUESTS"}]}`},
		manifest: 429, blob: 503, code: "TOOMANYREQUESTS", wait: "7", blobCode: "UNAVAILABLE", reason: "rate-limited", says: "pull limit"},
	"abuse limit": {fail: registrytest.Failure{Status: 429, Header: http.Header{"Content-Type": {"text/plain"}, "Retry-After": {"7"}}, Body: "Too Many Requests (HAP429).\n"},
		manifest: 429, blob: 503, code: "TOOMANYREQUESTS", wait: "7", blobCode: "UNAVAILABLE", reason: "rate-limited", says: "refuses all requests from the address of this proxy"},
	"rate limit of the token service": {fail: registrytest.Failure{Op: registrytest.OpToken, Status: 429, Header: http.Header{"Retry-After": {"7"}}},
		manifest: 429, blob: 503, code: "TOOMANYREQUESTS", wait: "7", blobCode: "UNAVAILABLE", reason: "rate-limited"},
	"broken":                      {fail: registrytest.Failure{Status: 500, Body: "<html>secret</html>"}, manifest: 503, blob: 503, code: "UNAVAILABLE", wait: "10", blobCode: "UNAVAILABLE", says: "answered with HTTP 500"},
	"overloaded":                  {fail: registrytest.Failure{Status: 503}, manifest: 503, blob: 503, code: "UNAVAILABLE", wait: "10", blobCode: "UNAVAILABLE", says: "answered with HTTP 503"},
	"token service broken":        {fail: registrytest.Failure{Op: registrytest.OpToken, Status: 500}, manifest: 503, blob: 503, code: "UNAVAILABLE", wait: "10", blobCode: "UNAVAILABLE", says: "or a server that it refers to, answered with HTTP 500"},
	"token service without sense": {fail: registrytest.Failure{Op: registrytest.OpToken, Status: 200, Body: "{}"}, manifest: 502, blob: 502, code: "UNAVAILABLE", blobCode: "UNAVAILABLE", says: "invalid response", reason: "invalid-answer"},
	"login refused":               {fail: registrytest.Failure{Op: registrytest.OpToken, Status: 401}, manifest: 502, blob: 502, code: "UNAVAILABLE", blobCode: "UNAVAILABLE", says: "rejected the login", reason: "login-rejected"},
	"without sense":               {fail: registrytest.Failure{Status: 202, Body: "hello"}, manifest: 502, blob: 502, code: "UNAVAILABLE", blobCode: "UNAVAILABLE", reason: "invalid-answer"},
	"redirects in a ring":         {fail: registrytest.Failure{Status: 302, Header: http.Header{"Location": {"/v2/"}}}, manifest: 502, blob: 502, code: "UNAVAILABLE", blobCode: "UNAVAILABLE", reason: "invalid-answer"},
	"hangs up":                    {hook: closeConnection, manifest: 503, blob: 503, code: "UNAVAILABLE", wait: "10", blobCode: "UNAVAILABLE", says: "cannot be reached"},
	"silent":                      {hook: neverAnswer, manifest: 504, blob: 504, code: "UNAVAILABLE", wait: "10", blobCode: "UNAVAILABLE", says: "did not respond in time", reason: "timeout"},
	// Docker Hub's answers for a repository that does not exist or is
	// private.
	"denied":    {fail: registrytest.Failure{Status: 403}, manifest: 404, blob: 404, code: "NAME_UNKNOWN", blobCode: "NAME_UNKNOWN", reason: "denied"},
	"challenge": {fail: registrytest.Failure{Status: 401}, manifest: 404, blob: 404, code: "NAME_UNKNOWN", blobCode: "NAME_UNKNOWN", reason: "denied"},
}

// TestUpstreamOutages checks that cached content is served during an outage of
// upstream, and that the errors for other content say whose fault it is and
// when to retry.
func TestUpstreamOutages(t *testing.T) {
	for name, row := range outages {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
			image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
			cold := up.PutBlob("library/alpine", sitetest.Random(2, 1000))
			login := sitetest.HubCredentials(t)
			lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, login, "fresh_for 1ns")}
			s := sitetest.Start(t, lines...)
			sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
			expireLists()
			list := "/v2/acme" + infix + "alpine/tags/list"
			tags := s.Get(list, sitetest.As("alice")).Expect(t, http.StatusOK, "").Data
			if row.reason == "timeout" {
				s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, login, "fresh_for 1ns", "transport http {\n response_header_timeout 300ms\n}"))
			}
			if row.fail.Op == registrytest.OpToken {
				up.RevokeTokens()
			}
			if row.hook != nil {
				up.SetFault(row.hook)
			} else {
				up.Fail(row.fail)
			}

			content := up.RawManifest("library/alpine", image.Manifest)
			path := sitetest.ManifestPath("acme", "alpine", "3.20")
			stale := "dependency-proxy; fwd=stale; detail=" + cmp.Or(row.reason, "unreachable")
			for range 2 {
				s.Get(path, sitetest.As("alice")).Content(t, content).Has(t, "Cache-Status", stale)
				s.Head(path, sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Docker-Content-Digest", string(image.Manifest))
			}
			s.Get(sitetest.ManifestPath("acme", "alpine", string(image.Manifest)), sitetest.As("alice")).Content(t, content)
			s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice")).Content(t, sitetest.Random(1, 1000))
			s.Get(list, sitetest.As("alice")).Content(t, tags).Has(t, "Cache-Status", stale)
			if n := asked(up.Counts()); n > 40 {
				t.Errorf("got %d requests, want at most 40", n)
			}

			get := s.Get(sitetest.ManifestPath("acme", "alpine", "other"), sitetest.As("alice")).Expect(t, row.manifest, row.code)
			get.Has(t, "Retry-After", row.wait).Has(t, "Content-Type", "application/json").Has(t, "WWW-Authenticate", "").Has(t, "Cache-Control", "no-transform")
			sitetest.SameStatus(t, get, s.Head(sitetest.ManifestPath("acme", "alpine", "other"), sitetest.As("alice")))
			s.Get(sitetest.BlobPath("acme", "alpine", cold), sitetest.As("alice")).Expect(t, row.blob, row.blobCode).Has(t, "Retry-After", row.wait).Has(t, "WWW-Authenticate", "")
			s.Get("/v2/acme"+infix+"alpine/tags/list?n=1", sitetest.As("alice")).Expect(t, row.manifest, row.code)
			if _, message := get.Problem(); strings.Contains(message, "secret") || !strings.Contains(message, "docker.io") || !strings.Contains(message, row.says) {
				t.Errorf("got the message %q, want the upstream, %q and no secret", message, row.says)
			}
			if row.manifest == http.StatusBadGateway && !strings.Contains(s.Logs(), `"level":"warn"`) {
				t.Error("the log lacks a warning")
			}
			up.Heal()
			s.Restart(lines...) // ends the pauses of upstream
			s.Get(sitetest.BlobPath("acme", "alpine", cold), sitetest.As("alice")).Content(t, sitetest.Random(2, 1000))
			s.AwaitStored(string(cold))
		})
	}
}

// TestStaleAnswerDuringStall checks that a client that can get a stale answer
// does not wait for upstream until its timeout, and that a client that leaves
// meanwhile gets no answer.
func TestStaleAnswerDuringStall(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "fresh_for 1ns", "patience 500ms"))
	path := sitetest.ManifestPath("acme", "alpine", "3.20")
	s.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "")
	up.SetFault(neverAnswer)
	defer up.Heal()
	leaving, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer leave()
	sitetest.Concurrently(3, func(i int) {
		if i == 0 {
			request, err := http.NewRequestWithContext(leaving, http.MethodGet, s.URL+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			sitetest.As("alice")(request)
			if response, err := sitetest.Client.Do(request); err == nil {
				_ = response.Body.Close()
				t.Errorf("got status %d at once, want no answer", response.StatusCode)
			}
			return
		}
		begin := time.Now()
		a := s.Get(path, sitetest.As("alice")).Content(t, up.RawManifest("library/alpine", image.Manifest))
		a.Has(t, "Cache-Status", "dependency-proxy; fwd=stale; detail=slow")
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("got an answer after %v, want one within 10s", took)
		}
	})
	if counts := up.Counts(); counts.ManifestGet != 1 || counts.ManifestHead != 1 {
		t.Errorf("got requests %+v, want one HEAD and one GET of the manifest", counts) // hanging requests are counted when they end
	}
}

// expireLists makes lists stale as soon as they are fetched from now on.
func expireLists() {
	for _, c := range caches.All() {
		c.lists = pullthrough.NewLists(0)
	}
}

// asked returns the number of all requests.
func asked(c registrytest.Counts) int {
	return c.Token + c.ManifestHead + c.ManifestGet + c.BlobHead + c.BlobGet + c.Tags + c.Referrers + c.Challenged + c.Other
}

// TestUpstreamUnreachable checks that cached content is served while nothing
// listens at the address of upstream.
func TestUpstreamUnreachable(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Private("other", "alice"), sitetest.Hub(up))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	up.Close()
	s.Restart(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Private("other", "alice"), sitetest.Hub(up))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	for _, path := range []string{sitetest.ManifestPath("other", "alpine", "3.20"), sitetest.ManifestPath("other", "alpine", string(image.Manifest)), sitetest.BlobPath("other", "alpine", image.Layers[0])} {
		s.Get(path, sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").Has(t, "Retry-After", "10")
	}
}

// TestUpstreamBreaksOff checks that an upstream whose response breaks off is not
// said to be unreachable.
func TestUpstreamBreaksOff(t *testing.T) {
	up := registrytest.New(t)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "10")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	got := s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	if _, message := got.Problem(); !strings.Contains(message, "docker.io broke off its response") {
		t.Errorf("got the message %q, want that the response broke off", message)
	}
}

// TestWrongUpstreamCredentials checks that credentials that upstream rejects
// are logged and answered with 502, without a challenge.
func TestWrongUpstreamCredentials(t *testing.T) {
	for name, option := range map[string]registrytest.Option{
		"token service": registrytest.WithToken("hub", "another"), "registry": registrytest.WithBasic("hub", "another"),
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, option)
			image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
			s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, sitetest.HubCredentials(t)))
			for _, path := range []string{sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.BlobPath("acme", "alpine", image.Layers[0])} {
				s.Get(path, sitetest.As("alice")).Expect(t, http.StatusBadGateway, "UNAVAILABLE").Has(t, "WWW-Authenticate", "")
			}
			if logs := s.Logs(); !strings.Contains(logs, `"level":"warn"`) || !strings.Contains(logs, "rejected the configured credentials") {
				t.Error("the log lacks a warning about the credentials")
			}
		})
	}
}

// TestRateLimitSurvivesReload checks that a reload does not forget that an upstream has
// demanded to be left alone.
func TestRateLimitSurvivesReload(t *testing.T) {
	up := registrytest.New(t)
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice")}
	s := sitetest.Start(t, append(lines, sitetest.Hub(up))...)
	up.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"60"}}})
	path := sitetest.ManifestPath("acme", "alpine", "3.20")
	s.Get(path, sitetest.As("alice")).Expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	before := asked(up.Counts())
	s.Load(append(lines, sitetest.Hub(up, "fresh_for 1h"))...)
	s.Get(path, sitetest.As("alice")).Expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	if after := asked(up.Counts()); before == 0 || after != before {
		t.Errorf("got %d requests before the reload and %d after it, want some and none", before, after-before)
	}
}
