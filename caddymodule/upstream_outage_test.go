package caddymodule

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

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
			up := registrytest.New(t, registrytest.WithToken("hub", upstreamPassword))
			image := up.PutImage("library/alpine", "3.20", random(1, 1000))
			cold := up.PutBlob("library/alpine", random(2, 1000))
			login := hubCredentials(t)
			lines := []string{users("alice"), private("acme", "alice"), hub(up, login, "fresh_for 1ns")}
			s := start(t, lines...)
			pull(t, s, "acme", "alpine", "3.20", as("alice"))
			expireLists()
			list := "/v2/acme" + infix + "alpine/tags/list"
			tags := s.get(list, as("alice")).expect(t, http.StatusOK, "").body
			if row.reason == "timeout" {
				s.load(users("alice"), private("acme", "alice"), hub(up, login, "fresh_for 1ns", "transport http {\n response_header_timeout 300ms\n}"))
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
			path := manifestPath("acme", "alpine", "3.20")
			stale := "dependency-proxy; fwd=stale; detail=" + cmp.Or(row.reason, "unreachable")
			for range 2 {
				s.get(path, as("alice")).content(t, content).has(t, "Cache-Status", stale)
				s.head(path, as("alice")).expect(t, http.StatusOK, "").has(t, "Docker-Content-Digest", string(image.Manifest))
			}
			s.get(manifestPath("acme", "alpine", string(image.Manifest)), as("alice")).content(t, content)
			s.get(blobPath("acme", "alpine", image.Layers[0]), as("alice")).content(t, random(1, 1000))
			s.get(list, as("alice")).content(t, tags).has(t, "Cache-Status", stale)
			if n := asked(up.Counts()); n > 40 {
				t.Errorf("got %d requests, want at most 40", n)
			}

			get := s.get(manifestPath("acme", "alpine", "other"), as("alice")).expect(t, row.manifest, row.code)
			get.has(t, "Retry-After", row.wait).has(t, "Content-Type", "application/json").has(t, "WWW-Authenticate", "").has(t, "Cache-Control", "no-transform")
			sameStatus(t, get, s.head(manifestPath("acme", "alpine", "other"), as("alice")))
			s.get(blobPath("acme", "alpine", cold), as("alice")).expect(t, row.blob, row.blobCode).has(t, "Retry-After", row.wait).has(t, "WWW-Authenticate", "")
			s.get("/v2/acme"+infix+"alpine/tags/list?n=1", as("alice")).expect(t, row.manifest, row.code)
			if _, message := get.problem(); strings.Contains(message, "secret") || !strings.Contains(message, "docker.io") || !strings.Contains(message, row.says) {
				t.Errorf("got the message %q, want the upstream, %q and no secret", message, row.says)
			}
			if row.manifest == http.StatusBadGateway && !strings.Contains(s.logs(), `"level":"warn"`) {
				t.Error("the log lacks a warning")
			}
			up.Heal()
			s.restart(lines...) // ends the pauses of upstream
			s.get(blobPath("acme", "alpine", cold), as("alice")).content(t, random(2, 1000))
			s.awaitStored(string(cold))
		})
	}
}

// TestStaleAnswerDuringStall checks that a client that can get a stale answer
// does not wait for upstream until its timeout, and that a client that leaves
// meanwhile gets no answer.
func TestStaleAnswerDuringStall(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, users("alice"), private("acme", "alice"), hub(up, "fresh_for 1ns", "patience 500ms"))
	path := manifestPath("acme", "alpine", "3.20")
	s.get(path, as("alice")).expect(t, http.StatusOK, "")
	up.SetFault(neverAnswer)
	defer up.Heal()
	leaving, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer leave()
	concurrently(3, func(i int) {
		if i == 0 {
			request, err := http.NewRequestWithContext(leaving, http.MethodGet, s.url+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			as("alice")(request)
			if response, err := client.Do(request); err == nil {
				_ = response.Body.Close()
				t.Errorf("got status %d at once, want no answer", response.StatusCode)
			}
			return
		}
		begin := time.Now()
		a := s.get(path, as("alice")).content(t, up.RawManifest("library/alpine", image.Manifest))
		a.has(t, "Cache-Status", "dependency-proxy; fwd=stale; detail=slow")
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
	image := up.PutImage("library/alpine", "3.20", random(1, 1000))
	s := start(t, users("alice"), private("acme", "alice"), private("other", "alice"), hub(up))
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	up.Close()
	s.restart(users("alice"), private("acme", "alice"), private("other", "alice"), hub(up))
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	for _, path := range []string{manifestPath("other", "alpine", "3.20"), manifestPath("other", "alpine", string(image.Manifest)), blobPath("other", "alpine", image.Layers[0])} {
		s.get(path, as("alice")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Retry-After", "10")
	}
}

// TestUpstreamBreaksOff checks that an upstream whose response breaks off is not
// said to be unreachable.
func TestUpstreamBreaksOff(t *testing.T) {
	up := registrytest.New(t)
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "10")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	got := s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	if _, message := got.problem(); !strings.Contains(message, "docker.io broke off its response") {
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
			image := up.PutImage("library/alpine", "3.20", random(1, 1000))
			s := start(t, users("alice"), private("acme", "alice"), hub(up, hubCredentials(t)))
			for _, path := range []string{manifestPath("acme", "alpine", "3.20"), blobPath("acme", "alpine", image.Layers[0])} {
				s.get(path, as("alice")).expect(t, http.StatusBadGateway, "UNAVAILABLE").has(t, "WWW-Authenticate", "")
			}
			if logs := s.logs(); !strings.Contains(logs, `"level":"warn"`) || !strings.Contains(logs, "rejected the configured credentials") {
				t.Error("the log lacks a warning about the credentials")
			}
		})
	}
}

// TestRateLimitSurvivesReload checks that a reload does not forget that an upstream has
// demanded to be left alone.
func TestRateLimitSurvivesReload(t *testing.T) {
	up := registrytest.New(t)
	lines := []string{users("alice"), private("acme", "alice")}
	s := start(t, append(lines, hub(up))...)
	up.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"60"}}})
	path := manifestPath("acme", "alpine", "3.20")
	s.get(path, as("alice")).expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	before := asked(up.Counts())
	s.load(append(lines, hub(up, "fresh_for 1h"))...)
	s.get(path, as("alice")).expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	if after := asked(up.Counts()); before == 0 || after != before {
		t.Errorf("got %d requests before the reload and %d after it, want some and none", before, after-before)
	}
}
