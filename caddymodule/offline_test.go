package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func init() { caddy.RegisterModule(forbiddenTransport{}) }

// forbiddenTransport is a transport that must not be used. It counts its uses.
type forbiddenTransport struct{}

var forbiddenUses atomic.Int32

func (forbiddenTransport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.transport.forbidden", New: func() caddy.Module { return new(forbiddenTransport) }}
}

func (forbiddenTransport) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (forbiddenTransport) RoundTrip(*http.Request) (*http.Response, error) {
	forbiddenUses.Add(1)
	return nil, errors.New("this transport must not be used")
}

// offlineSite is a site that has pulled an image and its lists, and has then gone offline.
type offlineSite struct {
	*sitetest.Site
	up     *registrytest.Registry
	files  *loginFiles
	image  registrytest.Image
	absent digest.Digest // at upstream, but not cached
}

func goOffline(t *testing.T, site, upstream string) *offlineSite {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
	o := &offlineSite{up: up, files: newLoginFiles(t, up), image: up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))}
	up.PutImage("library/alpine", "3.21", sitetest.Random(2, 1000))
	o.absent = up.PutBlob("library/alpine", sitetest.Random(3, 1000))
	groups := []string{sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), sitetest.Private("other", "alice")}
	o.Site = sitetest.StartWithAdmin(t, append(groups, sitetest.Hub(up, o.files.command, "fresh_for 1ns"))...)
	sitetest.Pull(t, o.Site, "acme", "alpine", "3.20", sitetest.As("alice"))
	expireLists()
	for _, list := range []string{"tags/list", "referrers/" + string(o.image.Manifest)} {
		o.Get("/v2/acme"+infix+"alpine/"+list, sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
	up.RevokeTokens()
	up.Reset()
	sitetest.WriteFile(t, o.files.log, "")
	forbiddenUses.Store(0)
	o.Load(append(groups, site, sitetest.Hub(up, o.files.command, "fresh_for 1ns", "stale_for 1ms", upstream, "transport forbidden"))...)
	return o
}

// expectSilence checks that nothing was asked.
func (o *offlineSite) expectSilence(what string) {
	o.T.Helper()
	if uses, runs, n := forbiddenUses.Load(), o.files.runs(), o.up.Counts(); uses != 0 || runs != 0 || n != (registrytest.Counts{}) {
		o.T.Errorf("%s: got %d uses of the transport, %d runs of the command for the login and the requests %+v; want none", what, uses, runs, n)
	}
}

// TestOffline checks that a site, or an upstream, that is offline serves what is cached,
// whatever its age, that it says so, that other content is not there for now, and that
// nothing is asked: neither the registry nor its token service nor the source of the login.
func TestOffline(t *testing.T) {
	for name, lines := range map[string][2]string{"site": {"offline on", ""}, "upstream": {"", "offline on"}} {
		t.Run(name, func(t *testing.T) {
			o := goOffline(t, lines[0], lines[1])
			alpine := "/v2/acme" + infix + "alpine/"
			layer := o.image.Layers[0]
			for _, path := range []string{sitetest.ManifestPath("acme", "alpine", "3.20"), alpine + "tags/list"} {
				a := o.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Cache-Status", "dependency-proxy; fwd=stale; detail=offline")
				if a.Header.Get("Age") == "" || !strings.Contains(a.Header.Get("Warning"), "docker.io is offline") {
					t.Errorf("GET %s: got the headers %v, want Age and a Warning that says why", path, a.Header)
				}
			}
			o.Head(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Cache-Status", "dependency-proxy; fwd=stale; detail=offline")
			for _, path := range []string{sitetest.ManifestPath("acme", "alpine", string(o.image.Manifest)), sitetest.BlobPath("acme", "alpine", layer)} {
				o.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Cache-Status", "dependency-proxy; hit")
				o.Head(path, sitetest.As("alice")).Expect(t, http.StatusOK, "")
			}
			o.Get(alpine+"referrers/"+string(o.image.Manifest), sitetest.As("alice")).Expect(t, http.StatusOK, "")
			o.Get(sitetest.BlobPath("acme", "alpine", layer), sitetest.As("alice"), sitetest.Header("Range", "bytes=10-19")).Expect(t, http.StatusPartialContent, "")
			o.expectSilence("cached content")
			for _, path := range []string{
				sitetest.ManifestPath("acme", "alpine", "3.21"), sitetest.ManifestPath("acme", "nginx", "latest"), sitetest.ManifestPath("acme", "alpine", string(o.absent)),
				sitetest.BlobPath("acme", "alpine", o.absent), sitetest.BlobPath("other", "alpine", layer), sitetest.ManifestPath("other", "alpine", "3.20"),
				alpine + "tags/list?n=7", alpine + "referrers/" + string(o.absent), "/v2/other" + infix + "alpine/tags/list",
			} {
				for i, changes := range [][]sitetest.RequestOption{{sitetest.As("alice")}, {sitetest.As("alice"), sitetest.Header("Range", "bytes=1-2")}, {sitetest.As("alice"), sitetest.Method(http.MethodHead)}} {
					if i == 2 && !strings.Contains(path, "/manifests/") && !strings.Contains(path, "/blobs/") {
						continue // lists have no HEAD
					}
					a := o.Get(path, changes...)
					if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") != "" {
						t.Errorf("%s: got status %d and the headers %v, want 503 without Retry-After", path, a.StatusCode, a.Header)
					}
				}
				if _, message := o.Get(path, sitetest.As("alice")).Problem(); !strings.Contains(message, "docker.io is offline by configuration") {
					t.Errorf("%s: got the message %q, want one that says that the upstream is offline", path, message)
				}
			}
			o.expectSilence("other content")
		})
	}
}

// TestOfflineEnds checks that a reload brings an upstream online at once.
func TestOfflineEnds(t *testing.T) {
	o := goOffline(t, "offline on", "")
	o.Get(sitetest.ManifestPath("acme", "alpine", "3.21"), sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	o.expectSilence("offline")
	o.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), "offline off", sitetest.Hub(o.up, o.files.command, "fresh_for 1ns"))
	sitetest.Pull(t, o.Site, "acme", "alpine", "3.21", sitetest.As("alice"))
	o.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Cache-Status", "dependency-proxy; fwd=stale; fwd-status=200")
}

// TestOfflineIsShown checks that the status, the metrics and explain show that an upstream
// is offline, and that warming pulls nothing and says why.
func TestOfflineIsShown(t *testing.T) {
	o := goOffline(t, "", "offline on")
	if u := o.Status().Sites[0].Upstreams[0]; u.State != "offline" {
		t.Errorf("got the upstream %+v, want it offline", u)
	}
	for command, want := range map[string]string{
		"status": "common  offline by configuration  -\n",
		"explain --as alice --pull acme/alpine:3.20": "upstream:    docker.io is offline by configuration; only what is cached can be pulled\n",
		"cache warm acme/alpine:3.20":                "acme/alpine:3.20: 1 manifest, 2 blobs, 1.1 KiB, 0 B of it fetched in ",
		"cache warm acme/alpine:3.21":                "acme/alpine:3.21: failed: upstream docker.io: library/alpine: manifest 3.21: not asked, because the upstream is offline by configuration\n",
	} {
		if out := o.CommandOutput(strings.Fields(command)...); !strings.Contains(out, want) {
			t.Errorf("%s: got %s, want %q", command, out, want)
		}
	}
	if a := o.Ask("GET", "/metrics", "").Expect(t, http.StatusOK, ""); strings.Contains(string(a.Data), "upstream_up{") || !strings.Contains(string(a.Data), "directory_up{") {
		t.Errorf("got %s, want directories, but no upstream that is up or down", a.Data)
	}
	o.expectSilence("state and warming")
}

// TestCacheMissing checks that the command and the admin API list what authorized clients
// have requested and not received, and how often.
func TestCacheMissing(t *testing.T) {
	o := goOffline(t, "offline on", "")
	o.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	for range 3 {
		o.Get(sitetest.ManifestPath("acme", "alpine", "3.21"), sitetest.As("alice"))
	}
	o.Head(sitetest.ManifestPath("acme", "alpine", "3.21"), sitetest.As("alice"))
	o.Get(sitetest.BlobPath("acme", "alpine", o.absent), sitetest.As("alice"))
	o.Get("/v2/other"+infix+"docker.io/library/nginx/tags/list", sitetest.As("alice"))
	o.Get(sitetest.ManifestPath("acme", "alpine", "secret"), sitetest.As("bob")).Expect(t, http.StatusForbidden, "DENIED")
	o.Get(sitetest.ManifestPath("acme", "alpine", "secret")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	const path = "/dependency_proxy/cache/missing"
	a := o.Ask("GET", path, "").Expect(t, http.StatusOK, "")
	var list admin.MissingList
	if err := json.Unmarshal(a.Data, &list); err != nil || len(list.Missing) != 3 {
		t.Fatalf("got %s, error %v; want three entries", a.Data, err)
	}
	first := list.Missing[0]
	first.Last = first.Last.Truncate(1 << 62)
	if want := (admin.Missing{Group: "acme", Upstream: "docker.io", Repository: "library/alpine", Kind: "manifest", Tag: "3.21", Requests: 4, Last: first.Last}); first != want || list.Missing[0].Last.IsZero() {
		t.Errorf("got %+v, want %+v with a time", list.Missing[0], want)
	}
	if i := slices.IndexFunc(list.Missing, func(m admin.Missing) bool { return m.Kind == "blob" && m.Digest == o.absent && m.Requests == 1 }); i < 0 {
		t.Errorf("got %s, want the blob %s", a.Data, o.absent)
	}
	table := o.MustCommand("cache", "missing")
	for _, want := range []string{
		"4         ", "acme/dependency_proxy/containers/docker.io/library/alpine:3.21", "docker.io/library/alpine@" + string(o.absent),
		"tags      other/dependency_proxy/containers/docker.io/library/nginx\n",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the table lacks %q:\n%s", want, table)
		}
	}
	if out := o.MustCommand("cache", "missing", "--json"); out != string(a.Data) {
		t.Errorf("got %s, want the response %s", out, a.Data)
	}
	o.Ask("GET", path+"?x=1", "").Expect(t, http.StatusBadRequest, "")
	o.Ask("POST", path, "{}").Expect(t, http.StatusMethodNotAllowed, "")
}
