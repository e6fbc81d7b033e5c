package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestPeersReportMovedTagsOnce checks that if three nodes pull a tag that has moved, only the
// one that has asked upstream emits the event.
func TestPeersReportMovedTagsOnce(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, 100))
	c := startNodes(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	pull := func() {
		t.Helper()
		for _, n := range c.all {
			n.Get(sitetest.ManifestPath("acme", "team/app", "1"), sitetest.As("alice")).Expect(t, http.StatusOK, "").
				Has(t, "Docker-Content-Digest", string(image.Manifest))
		}
	}
	pull()
	image = up.PutImage("team/app", "1", sitetest.Random(2, 100))
	scope := c.all[0].handler.scopeOf("docker.io", "acme", "team/app")
	for _, n := range c.all {
		outdate(n.Site, scope, "1", false)
	}
	pull()
	emitted := func(tag string) (lines int) {
		for line := range strings.Lines(c.base.Logs()) {
			if strings.Contains(line, `"name":"tag_moved"`) && strings.Contains(line, `"tag":"`+tag+`"`) {
				lines++
			}
		}
		return lines
	}
	for _, n := range c.all { // each node emits its events in order
		n.handler.pullHooks.Moved(scope, "last", index.Ref{}, index.Ref{})
	}
	sitetest.Eventually(t, "the last events", func() bool { return emitted("last") == len(c.all) })
	if got := emitted("1"); got != 1 {
		t.Errorf("got %d events, want 1", got)
	}
}
