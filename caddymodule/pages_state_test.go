package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/usage"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestSitePageStorage checks that admins see how full the storage is, and which
// upstreams are offline, as the status command does.
func TestSitePageStorage(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 3<<20))
	s := sitetest.NewSite(t)
	s.OpenAdmin()
	s.Limits = "max_size 64MiB"
	s.Load(sitetest.Users("dave"), sitetest.Private("acme"), "admins dave", sitetest.Hub(up), sitetest.UpstreamAt("ghcr.io", up.URL(), "offline on"))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("dave"))
	s.AwaitStored(string(image.Layers[0]), string(image.Config), string(image.Manifest))
	seen, _ := sitePage(s, sitePath, sitetest.As("dave"))
	if got := seen.Stored; got.Bytes < 3<<20 || got.Bytes > 4<<20 || got.Blobs != 3 || got.Limit != 64<<20 {
		t.Errorf("got %+v, want 3 blobs with 3 MiB of 64 MiB", got)
	}
	if u := seen.Upstreams; len(u) != 2 || u[0].State != "up" || u[1].State != "offline" {
		t.Errorf("got the upstreams %+v, want the second one offline", u)
	}
	if out := s.MustCommand("status"); !strings.Contains(out, "offline") {
		t.Errorf("got the status %s, want an upstream that is offline", out)
	}
	html := string(s.Get(sitePath, sitetest.As("dave"), sitetest.Header("Accept", "text/html")).Has(t, "Vary", "Accept").Data)
	for _, want := range []string{"<strong>3.0 MiB</strong> of 64 MiB in 3 blobs", ">offline"} {
		if !strings.Contains(html, want) {
			t.Errorf("got %s, want %q in it", html, want)
		}
	}
}

// TestGroupPageAnonymous checks that the page of a public group names no account to a
// client that has none.
func TestGroupPageAnonymous(t *testing.T) {
	s := sitetest.Start(t, sitetest.Visible("open", directory.Public), sitetest.Hub(registrytest.New(t)))
	token := s.Get(sitetest.Auth).Expect(t, http.StatusOK, "").Tokens().Token
	if seen := groupPage(s, "/open/dependency_proxy", sitetest.Bearer(token)); seen.Account != "" || seen.Access != "public group" {
		t.Errorf("got the account %q with the access %q, want none", seen.Account, seen.Access)
	}
	html := s.Get("/open/dependency_proxy", sitetest.Bearer(token), sitetest.Header("Accept", "text/html")).Expect(t, http.StatusOK, "")
	if strings.Contains(string(html.Data), "Logged in") {
		t.Errorf("got %s, want no account", html.Data)
	}
}

// TestUsageOfFormerGroup checks that a group which the configuration does not declare
// any more is one of the others, whose number is limited.
func TestUsageOfFormerGroup(t *testing.T) {
	up := sitetest.Hub(registrytest.New(t))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Private("former", "alice"), up)
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), up)
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
