package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/porttest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestReloadDuringPull checks that a pull that is running during a reload is
// completed, and that the new configuration has its content.
func TestReloadDuringPull(t *testing.T) {
	for name, change := range map[string]string{
		"another account":    sitetest.Users("bob"),
		"another key age":    "token {\n rotate 1d\n}",
		"another lifetime":   "token {\n lifetime 1h\n}",
		"private groups off": "private_groups off",
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t)
			layer := sitetest.Random(1, 400_000)
			d := up.PutBlob("library/alpine", layer)
			lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public), sitetest.Hub(up)}
			s := sitetest.Start(t, lines...)
			token := s.Token("alice")
			release := up.StallBlobs(200_000)
			var pulls [3]*http.Response
			for i := range pulls {
				pulls[i] = s.Open(sitetest.BlobPath("acme", "alpine", d), sitetest.Bearer(token))
				if _, err := io.ReadFull(pulls[i].Body, make([]byte, 150_000)); err != nil {
					t.Fatal(err)
				}
			}
			s.Load(append(lines, change)...)
			if change != "private_groups off" {
				late := s.Open(sitetest.BlobPath("acme", "alpine", d), sitetest.Bearer(token)) // joins the fill of the former configuration
				defer func() {
					s.Finish(late).Content(t, layer).Has(t, "Cache-Status", "dependency-proxy; fwd=miss; collapsed")
				}()
			} else {
				s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.Bearer(token)).Expect(t, http.StatusForbidden, "DENIED")
			}
			s.Load(append(lines, change, "realm "+s.URL+"/jwt/auth")...) // and once more
			release()
			for _, pull := range pulls {
				rest, err := io.ReadAll(pull.Body)
				if err != nil || string(rest) != string(layer[150_000:]) {
					t.Errorf("got %d more bytes, error %v; want the rest of %d", len(rest), err, len(layer)-150_000)
				}
			}
			s.AwaitStored(string(d))
			s.Load(lines...)
			s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.Bearer(token)).Content(t, layer).Has(t, "Cache-Status", "dependency-proxy; hit")
			if counts := up.Counts(); counts.BlobGet != 1 {
				t.Errorf("got requests %+v, want one GET of the blob", counts)
			}
		})
	}
}

// TestStorageChangeDuringPull checks that a pull is completed even if a reload
// closes its cache.
func TestStorageChangeDuringPull(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 400_000)
	d := up.PutBlob("library/alpine", layer)
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up)}
	s := sitetest.Start(t, lines...)
	release := up.StallBlobs(200_000)
	pull := s.Open(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice"))
	s.Limits = "max_size 1GiB"
	s.Load(lines...)
	release()
	s.Finish(pull).Content(t, layer)
	s.AwaitStored(string(d))
	s.Get(sitetest.BlobPath("acme", "alpine", d), sitetest.As("alice")).Content(t, layer).Has(t, "Cache-Status", "dependency-proxy; hit")
}

// TestInvalidReload checks that a configuration that is refused changes
// nothing.
func TestInvalidReload(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 300_000))
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up)}
	s := sitetest.Start(t, lines...)
	token := s.Token("alice")
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	release := up.StallBlobs(100_000)
	pull := s.Open(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.Bearer(token))
	for what, bad := range map[string][]string{
		"nobody can ever pull":    {sitetest.Users("alice"), sitetest.Hub(up)},
		"EMPTY_PASSWORD":          {sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "credentials hub {env.EMPTY_PASSWORD}")},
		"/no/such/file":           {sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "credentials hub {file./no/such/file}")},
		"realm host":              {sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "realm_hosts https://x/")}, // found last of all
		"group acme: upstream":    {sitetest.Users("alice"), sitetest.Hub(up), "group acme {\n members alice\n upstream docker.io {\n credentials hub {env.EMPTY_PASSWORD}\n }\n}"},
		"unrecognized":            {sitetest.Users("alice"), sitetest.Private("acme", "alice"), "nonsense"},
		"UnreachableModule":       {sitetest.Users("alice"), sitetest.Private("acme", "alice"), "directory UnreachableModule"},
		"cannot be kept from":     {sitetest.Users("alice"), sitetest.Private("acme", "alice"), "upstream docker.io {\n transport fastcgi\n}"},
		"neither bcrypt nor":      {"user alice plain", sitetest.Private("acme", "alice")},
		"make the cache director": nil,
	} {
		if bad == nil {
			bad, s.Cache = lines, s.Dir+"/caddy.log/cache" // below a file
		}
		err := s.TryLoad(bad...)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got error %v, want %q", err, what)
		}
		s.Cache = s.Dir + "/cache"
		s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.Bearer(token)).Expect(t, http.StatusOK, "").Has(t, "Cache-Status", "dependency-proxy; hit")
	}
	release()
	s.Finish(pull).Content(t, sitetest.Random(1, 300_000))
	s.AwaitStored(string(image.Layers[0]))
	if got := up.Counts(); got.BlobGet != 1 || got.ManifestGet != 1 || got.ManifestHead != 1 {
		t.Errorf("got requests %+v, want one GET of the blob, and one HEAD and one GET of the manifest", got)
	}
}

// TestSitesShareCache checks that two sites with one storage share one cache.
func TestSitesShareCache(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 400_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	s, host := sitetest.NewSite(t), porttest.Reserve(t)
	other := &sitetest.Site{T: t, URL: "http://" + host, Host: host}
	port := sitetest.PortOf(other.Host)
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up)}
	s.After = fmt.Sprintf("http://:%s {\n bind 127.0.0.1\n log\n dependency_proxy {\n storage filesystem %s {\n reserve off\n }\n %s\n }\n}", port, s.Cache, strings.Join(lines, "\n"))
	s.Load(lines...)
	sitetest.Concurrently(10, func(i int) {
		here := []*sitetest.Site{s, other}[i%2]
		here.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Content(t, up.RawManifest("library/alpine", image.Manifest))
		here.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice")).Content(t, layer)
	})
	if counts := up.Counts(); counts.BlobGet != 1 || counts.ManifestGet > 2 || counts.ManifestHead > 2 {
		t.Errorf("got requests %+v, want one GET of the blob and at most two HEADs and GETs of the manifest", counts)
	}
	s.AwaitStored(string(image.Layers[0]))
	// A token is valid only at the host that issued it.
	s.Get("/v2/", sitetest.Bearer(s.Token("alice"))).Expect(t, http.StatusOK, "")
	token := other.Token("alice")
	s.AddSecrets(token)
	other.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	// One of the sites can go on alone.
	s.After = ""
	s.Load(lines...)
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
}
