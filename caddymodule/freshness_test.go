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
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestFreshForPatterns checks that the first line fresh_for whose pattern matches a tag
// decides how long it is fresh, whatever name the client has for the image.
func TestFreshForPatterns(t *testing.T) {
	up := registrytest.New(t)
	for _, tag := range []string{"3.20.1", "3.20"} {
		up.PutImage("library/alpine", tag, sitetest.Random(1, 100))
	}
	up.PutImage("acme/tool", "1.2.3", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "fresh_for 24h docker.io/library/*:*.*.*", "fresh_for 1ns docker.io/**:*.*.*", "fresh_for 1ns"))
	for image, want := range map[string]string{
		"alpine:3.20.1":                   "dependency-proxy; hit",
		"docker.io/library/alpine:3.20.1": "dependency-proxy; hit",
		"alpine:3.20":                     "dependency-proxy; fwd=stale; fwd-status=200",
		"acme/tool:1.2.3":                 "dependency-proxy; fwd=stale; fwd-status=200",
	} {
		name, tag, _ := strings.Cut(image, ":")
		path := sitetest.ManifestPath("acme", name, tag)
		s.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "")
		digest := s.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Cache-Status", want).Header.Get("Docker-Content-Digest")
		s.Get(sitetest.ManifestPath("acme", name, digest), sitetest.As("alice")).Has(t, "Cache-Status", "dependency-proxy; hit")
	}
}

// TestFreshnessIsReloaded checks that a reload changes at once how long tags are used,
// and loses nothing that is cached.
func TestFreshnessIsReloaded(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	content := up.RawManifest("library/alpine", image.Manifest)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	path := sitetest.ManifestPath("acme", "alpine", "3.20")
	s.Get(path, sitetest.As("alice")).Content(t, content)
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
		s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, row.lines...))
		got := s.Get(path, sitetest.As("alice"))
		if row.status == "" {
			got.Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").Has(t, "Age", "").Has(t, "Warning", "")
		} else {
			got.Content(t, content).Has(t, "Cache-Status", "dependency-proxy; "+row.status)
		}
	}
}

// TestStaleAnswerIsMarked checks that a client learns from headers why an answer is
// stale and how old it is, and that other answers have no warning.
func TestStaleAnswerIsMarked(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "fresh_for 1ns"))
	path := sitetest.ManifestPath("acme", "docker.io/library/alpine", "3.20")
	first := s.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Age", "").Has(t, "Warning", "")
	asked := time.Now()
	confirmed := s.Get(path, sitetest.As("alice")).Has(t, "Cache-Status", "dependency-proxy; fwd=stale; fwd-status=200").Has(t, "Warning", "")
	if age, err := strconv.Atoi(confirmed.Header.Get("Age")); err != nil || age < 0 || age > int(time.Since(asked)/time.Second) {
		t.Errorf("got the age %q, want 0, or the seconds that the request has taken at most", confirmed.Header.Get("Age"))
	}
	up.Fail(registrytest.Failure{Status: http.StatusTooManyRequests})
	warning := regexp.MustCompile(`^299 - "docker\.io/library/alpine:3\.20 may be out of date: the rate limit of docker\.io is reached, or nearly \(last confirmed at [-0-9T:]+Z\)"$`)
	age := regexp.MustCompile(`^\d{1,2}$`)
	marked := func(a sitetest.Answer, status int) sitetest.Answer {
		t.Helper()
		a.Expect(t, status, "").Has(t, "Cache-Status", "dependency-proxy; fwd=stale; detail=rate-limited")
		if got := a.Header.Get("Warning"); !warning.MatchString(got) {
			t.Errorf("got the warning %s, want one that matches %s", got, warning)
		}
		if got := a.Header.Get("Age"); !age.MatchString(got) {
			t.Errorf("got the age %q, want seconds", got)
		}
		return a
	}
	get := marked(s.Get(path, sitetest.As("alice")), http.StatusOK)
	head := marked(s.Head(path, sitetest.As("alice")), http.StatusOK)
	head.Has(t, "Warning", get.Header.Get("Warning")) // so that clients can show it once
	marked(s.Get(path, sitetest.As("alice"), sitetest.Header("If-None-Match", first.Header.Get("Etag"))), http.StatusNotModified)
	byDigest := sitetest.ManifestPath("acme", "alpine", first.Header.Get("Docker-Content-Digest"))
	s.Get(byDigest, sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Cache-Status", "dependency-proxy; hit").Has(t, "Age", "").Has(t, "Warning", "")
	s.Get(sitetest.ManifestPath("acme", "alpine", "other"), sitetest.As("alice")).Expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS").Has(t, "Warning", "")
}

// TestForcedRefresh checks that maintainers can make the proxy ask upstream about a tag
// that is fresh, and that the same header of others has no effect.
func TestForcedRefresh(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice", "bob", "carol", "dave"), sitetest.AcmeRoles, sitetest.Visible("open", directory.Public), "admins dave", sitetest.Hub(up))
	refresh := sitetest.Header("Cache-Control", "max-age=0, no-cache")
	for _, group := range []string{"acme", "open"} {
		s.Get(sitetest.ManifestPath(group, "alpine", "3.20"), sitetest.As("bob"))
	}
	var deploy struct{ Token string }
	made := s.Get("/acme/dependency_proxy/tokens", sitetest.As("carol"), sitetest.JSONBody(http.MethodPost, `{"name":"ci","lifetime":"24h"}`))
	if err := json.Unmarshal(made.Data, &deploy); err != nil {
		t.Fatal(err)
	}
	s.AddSecrets(deploy.Token)
	for i, row := range []struct {
		group  string
		who    sitetest.RequestOption
		forced bool
	}{
		{"acme", sitetest.As("alice"), false}, // a member
		{"acme", sitetest.As("bob"), true},    // a maintainer
		{"acme", sitetest.As("dave"), true},   // an admin
		{"acme", sitetest.Basic("ci", deploy.Token), false},
		{"open", sitetest.As("bob"), false},
		{"open", sitetest.Bearer(s.Get(sitetest.Auth).Tokens().Token), false}, // an anonymous client
	} {
		want := up.PutImage("library/alpine", "3.20", sitetest.Random(byte(i+2), 100))
		path := sitetest.ManifestPath(row.group, "alpine", "3.20")
		before := s.Get(path, row.who).Expect(t, http.StatusOK, "").Header.Get("Docker-Content-Digest")
		got := s.Get(path, row.who, refresh)
		status, digest := "dependency-proxy; hit", before
		if row.forced {
			status, digest = "dependency-proxy; fwd=stale; fwd-status=200", string(want.Manifest)
		}
		got.Expect(t, http.StatusOK, "").Has(t, "Cache-Status", status).Has(t, "Docker-Content-Digest", digest)
		s.Get(path, row.who).Has(t, "Docker-Content-Digest", digest)
	}
	if strings.Contains(s.Logs(), auditDenied) {
		t.Error("the log has a denial, want none for a header that is ignored")
	}
}
