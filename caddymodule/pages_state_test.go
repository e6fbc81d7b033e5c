package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/usage"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestSitePageStorage checks that admins see how full the storage is, and which
// upstreams are offline, as the status command does.
func TestSitePageStorage(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 3<<20))
	s := newSite(t)
	s.openAdmin()
	s.limits = "max_size 64MiB"
	s.load(users("dave"), private("acme"), "admins dave", hub(up), upstreamAt("ghcr.io", up.URL(), "offline on"))
	pull(t, s, "acme", "alpine", "3.20", as("dave"))
	s.awaitStored(string(image.Layers[0]), string(image.Config), string(image.Manifest))
	seen, _ := s.sitePage(sitePage, as("dave"))
	if got := seen.Stored; got.Bytes < 3<<20 || got.Bytes > 4<<20 || got.Blobs != 3 || got.Limit != 64<<20 {
		t.Errorf("got %+v, want 3 blobs with 3 MiB of 64 MiB", got)
	}
	if u := seen.Upstreams; len(u) != 2 || u[0].State != "up" || u[1].State != "offline" {
		t.Errorf("got the upstreams %+v, want the second one offline", u)
	}
	if out := s.mustCommand("status"); !strings.Contains(out, "offline") {
		t.Errorf("got the status %s, want an upstream that is offline", out)
	}
	html := string(s.get(sitePage, as("dave"), header("Accept", "text/html")).has(t, "Vary", "Accept").body)
	for _, want := range []string{"<strong>3.0 MiB</strong> of 64 MiB in 3 blobs", ">offline"} {
		if !strings.Contains(html, want) {
			t.Errorf("got %s, want %q in it", html, want)
		}
	}
}

// TestGroupPageAnonymous checks that the page of a public group names no account to a
// client that has none.
func TestGroupPageAnonymous(t *testing.T) {
	s := start(t, visible("open", directory.Public), hub(registrytest.New(t)))
	token := s.get(auth).expect(t, http.StatusOK, "").tokens().Token
	if seen := s.groupPage("/open/dependency_proxy", bearer(token)); seen.Account != "" || seen.Access != "public group" {
		t.Errorf("got the account %q with the access %q, want none", seen.Account, seen.Access)
	}
	html := s.get("/open/dependency_proxy", bearer(token), header("Accept", "text/html")).expect(t, http.StatusOK, "")
	if strings.Contains(string(html.body), "Logged in") {
		t.Errorf("got %s, want no account", html.body)
	}
}

// TestUsageOfFormerGroup checks that a group which the configuration does not declare
// any more is one of the others, whose number is limited.
func TestUsageOfFormerGroup(t *testing.T) {
	up := hub(registrytest.New(t))
	s := start(t, users("alice"), private("acme", "alice"), private("former", "alice"), up)
	s.load(users("alice"), private("acme", "alice"), up)
	recorder := runningHandler(t).cache.usage
	for i := range 1000 {
		recorder.Count(fmt.Sprint("g", i), usage.Traffic{Served: 1})
	}
	for _, group := range []string{"former", "acme"} {
		recorder.Count(group, usage.Traffic{Served: 1})
	}
	for group, want := range map[string]int64{"former": 0, "acme": 1, usage.Other: 1} {
		var got int64
		for _, day := range recorder.Days(t.Context(), group, 2) {
			got += day.Served
		}
		if got != want {
			t.Errorf("group %s: got %d bytes, want %d", group, got, want)
		}
	}
}
