package caddymodule

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestFreshForPatterns checks that the first line fresh_for whose pattern matches a tag
// decides how long it is fresh, whatever name the client has for the image.
func TestFreshForPatterns(t *testing.T) {
	up := registrytest.New(t)
	for _, tag := range []string{"3.20.1", "3.20"} {
		up.PutImage("library/alpine", tag, random(1, 100))
	}
	up.PutImage("acme/tool", "1.2.3", random(1, 100))
	s := start(t, users("alice"), private("acme", "alice"), hub(up, "fresh_for 24h docker.io/library/*:*.*.*", "fresh_for 1ns docker.io/**:*.*.*", "fresh_for 1ns"))
	for image, want := range map[string]string{
		"alpine:3.20.1":                   "dependency-proxy; hit",
		"docker.io/library/alpine:3.20.1": "dependency-proxy; hit",
		"alpine:3.20":                     "dependency-proxy; fwd=stale; fwd-status=200",
		"acme/tool:1.2.3":                 "dependency-proxy; fwd=stale; fwd-status=200",
	} {
		name, tag, _ := strings.Cut(image, ":")
		path := manifestPath("acme", name, tag)
		s.get(path, as("alice")).expect(t, http.StatusOK, "")
		digest := s.get(path, as("alice")).expect(t, http.StatusOK, "").has(t, "Cache-Status", want).Header.Get("Docker-Content-Digest")
		s.get(manifestPath("acme", name, digest), as("alice")).has(t, "Cache-Status", "dependency-proxy; hit")
	}
}

// TestFreshnessIsReloaded checks that a reload changes at once how long tags are used,
// and loses nothing that is cached.
func TestFreshnessIsReloaded(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 100))
	content := up.RawManifest("library/alpine", image.Manifest)
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	path := manifestPath("acme", "alpine", "3.20")
	s.get(path, as("alice")).content(t, content)
	up.Fail(registrytest.Failure{Status: http.StatusInternalServerError})
	for _, row := range []struct {
		lines  []string
		status string // of a cached answer, empty for 503
	}{
		{nil, "hit"},
		{[]string{"fresh_for 1ns"}, "fwd=stale; detail=unreachable"},
		{[]string{"fresh_for 1ns", "stale_for off"}, ""},
		{[]string{"fresh_for 1ns", "stale_for 1h"}, "fwd=stale; detail=unreachable"},
		{[]string{"fresh_for 1ns", "stale_for 1ms"}, ""},
		{[]string{"fresh_for 1h docker.io/library/alpine", "fresh_for 1ns", "stale_for off"}, "hit"},
		{[]string{"stale_for off"}, "hit"},
	} {
		s.load(users("alice"), private("acme", "alice"), hub(up, row.lines...))
		got := s.get(path, as("alice"))
		if row.status == "" {
			got.expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Age", "").has(t, "Warning", "")
		} else {
			got.content(t, content).has(t, "Cache-Status", "dependency-proxy; "+row.status)
		}
	}
}

// TestStaleAnswerIsMarked checks that a client learns from headers why an answer is
// stale and how old it is, and that other answers have no warning.
func TestStaleAnswerIsMarked(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, users("alice"), private("acme", "alice"), hub(up, "fresh_for 1ns"))
	path := manifestPath("acme", "docker.io/library/alpine", "3.20")
	first := s.get(path, as("alice")).expect(t, http.StatusOK, "").has(t, "Age", "").has(t, "Warning", "")
	asked := time.Now()
	confirmed := s.get(path, as("alice")).has(t, "Cache-Status", "dependency-proxy; fwd=stale; fwd-status=200").has(t, "Warning", "")
	if age, err := strconv.Atoi(confirmed.Header.Get("Age")); err != nil || age < 0 || age > int(time.Since(asked)/time.Second) {
		t.Errorf("got the age %q, want 0, or the seconds that the request has taken at most", confirmed.Header.Get("Age"))
	}
	up.Fail(registrytest.Failure{Status: http.StatusTooManyRequests})
	warning := regexp.MustCompile(`^299 - "docker\.io/library/alpine:3\.20 may be out of date: the rate limit of docker\.io is reached, or nearly \(last confirmed at [-0-9T:]+Z\)"$`)
	age := regexp.MustCompile(`^\d{1,2}$`)
	marked := func(a answer, status int) answer {
		t.Helper()
		a.expect(t, status, "").has(t, "Cache-Status", "dependency-proxy; fwd=stale; detail=rate-limited")
		if got := a.Header.Get("Warning"); !warning.MatchString(got) {
			t.Errorf("got the warning %s, want one that matches %s", got, warning)
		}
		if got := a.Header.Get("Age"); !age.MatchString(got) {
			t.Errorf("got the age %q, want seconds", got)
		}
		return a
	}
	get := marked(s.get(path, as("alice")), http.StatusOK)
	head := marked(s.head(path, as("alice")), http.StatusOK)
	head.has(t, "Warning", get.Header.Get("Warning")) // so that clients can show it once
	marked(s.get(path, as("alice"), header("If-None-Match", first.Header.Get("Etag"))), http.StatusNotModified)
	byDigest := manifestPath("acme", "alpine", first.Header.Get("Docker-Content-Digest"))
	s.get(byDigest, as("alice")).expect(t, http.StatusOK, "").has(t, "Cache-Status", "dependency-proxy; hit").has(t, "Age", "").has(t, "Warning", "")
	s.get(manifestPath("acme", "alpine", "other"), as("alice")).expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS").has(t, "Warning", "")
}

// TestForcedRefresh checks that maintainers can make the proxy ask upstream about a tag
// that is fresh, and that the same header of others has no effect.
func TestForcedRefresh(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, users("alice", "bob", "carol", "dave"), acmeRoles, visible("open", directory.Public), "admins dave", hub(up))
	refresh := header("Cache-Control", "max-age=0, no-cache")
	for _, group := range []string{"acme", "open"} {
		s.get(manifestPath(group, "alpine", "3.20"), as("bob"))
	}
	var deploy struct{ Token string }
	made := s.get("/acme/dependency_proxy/tokens", as("carol"), jsonBody(http.MethodPost, `{"name":"ci","lifetime":"24h"}`))
	if err := json.Unmarshal(made.body, &deploy); err != nil {
		t.Fatal(err)
	}
	s.addSecrets(deploy.Token)
	for i, row := range []struct {
		group  string
		who    requestOption
		forced bool
	}{
		{"acme", as("alice"), false}, // a member
		{"acme", as("bob"), true},    // a maintainer
		{"acme", as("dave"), true},   // an admin
		{"acme", basic("ci", deploy.Token), false},
		{"open", as("bob"), false},
		{"open", bearer(s.get(auth).tokens().Token), false}, // an anonymous client
	} {
		want := up.PutImage("library/alpine", "3.20", random(byte(i+2), 100))
		path := manifestPath(row.group, "alpine", "3.20")
		before := s.get(path, row.who).expect(t, http.StatusOK, "").Header.Get("Docker-Content-Digest")
		got := s.get(path, row.who, refresh)
		status, digest := "dependency-proxy; hit", before
		if row.forced {
			status, digest = "dependency-proxy; fwd=stale; fwd-status=200", string(want.Manifest)
		}
		got.expect(t, http.StatusOK, "").has(t, "Cache-Status", status).has(t, "Docker-Content-Digest", digest)
		s.get(path, row.who).has(t, "Docker-Content-Digest", digest)
	}
	if strings.Contains(s.logs(), auditDenied) {
		t.Error("the log has a denial, want none for a header that is ignored")
	}
}
